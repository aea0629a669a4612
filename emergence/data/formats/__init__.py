"""One reader for each question-answering file format. Every reader yields ``RawQuestion`` rows."""

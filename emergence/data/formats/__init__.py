"""One reader per question-answering file format; each yields ``RawQuestion`` rows."""

"""The chain of the emergence law's posterior, by emcee."""

from __future__ import annotations

import numpy as np

from emergence.measures.emergence_law import LawFit
from emergence.measures.law_posterior import N_STEPS, N_WALKERS, Posterior, log_posterior, posterior_of, walkers


def sample_posterior(fit: LawFit, *, n_steps: int = N_STEPS, seed: int = 0) -> Posterior:
    """The posterior of E_0.

    Raises:
        ImportError: ``emcee`` is not installed.
    """
    import emcee

    start = walkers(fit, np.random.default_rng(seed))
    sampler = emcee.EnsembleSampler(N_WALKERS, 3, lambda theta: log_posterior(fit, theta), vectorize=True)
    sampler.random_state = np.random.RandomState(seed).get_state()
    sampler.run_mcmc(start, n_steps)
    return posterior_of(sampler.get_chain()[:, :, 0], float(np.max(sampler.get_autocorr_time(tol=0))))

"""A speech service of three programs: a gateway, a speech-to-text worker, a translation worker."""

"""The shipped plugins. They import only the public names of ssl_core, ssl_core.nn and ssl_core.tokenizers."""

"""SDKs for the plugin processes of existing hosts; each is a package of its own."""

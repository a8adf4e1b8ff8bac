"""The demo: trained runs behind a web page and an endpoint, and the same as a folder for a Space. `serving` is the way in."""

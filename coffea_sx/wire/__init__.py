"""HTTP requests that always end: their sockets check time limits and interruptions.

The timeouts of HTTP libraries limit one wait for some bytes, so that a server which sends a byte a
second is waited for without end. Here the sockets check the `clock.Clock` of the request that uses
them: while a name is looked up, while a connection is made, in the handshake of TLS, and between
any two bytes of headers and body.
"""

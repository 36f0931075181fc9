//go:build !quicgo050

package main

// What quic-go calls differently in Debian 12 (0.29), and what it cannot.

import (
	"crypto/tls"
	"net/http"

	"github.com/lucas-clemente/quic-go/http3"
)

func newTransport(t *tls.Config) *http3.RoundTripper { return &http3.RoundTripper{TLSClientConfig: t} }

func trailers(c *http.Client, base string, size, calls int) error {
	return skipped("quic-go 0.29 has none")
}

func hints(c *http.Client, base string, size, calls int) error {
	return skipped("quic-go 0.29 takes them for the answer")
}

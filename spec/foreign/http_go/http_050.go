//go:build quicgo050

package main

// What quic-go calls differently in Debian 13 (0.50).

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/textproto"

	"github.com/quic-go/quic-go/http3"
)

func newTransport(t *tls.Config) *http3.Transport { return &http3.Transport{TLSClientConfig: t} }

func trailers(c *http.Client, base string, size, calls int) error {
	res, got, err := fetch(c, "GET", base+"/trailers", nil)
	if err := want(res, got, err, 200, "body"); err != nil {
		return err
	}
	if res.Trailer.Get("X-After") != "done" {
		return fmt.Errorf("trailers %v", res.Trailer)
	}
	return nil
}

func hints(c *http.Client, base string, size, calls int) error {
	var seen []string
	req, err := http.NewRequest("GET", base+"/hints", nil)
	if err != nil {
		return err
	}
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, fields textproto.MIMEHeader) error {
		seen = append(seen, fmt.Sprint(code, " ", fields.Get("Link")))
		return nil
	}}
	res, err := c.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != 200 || len(seen) != 1 || seen[0] != "103 </style.css>; rel=preload" {
		return fmt.Errorf("status %d, hints %v", res.StatusCode, seen)
	}
	return nil
}

//go:build !quicgo050

package main

// What quic-go calls differently in Debian 12 (0.29).

import (
	"context"
	"crypto/tls"

	quic "github.com/lucas-clemente/quic-go"
)

type (
	quicConn         = quic.Connection
	quicStream       = quic.Stream
	quicReceive      = quic.ReceiveStream
	quicSend         = quic.SendStream
	streamCode       = quic.StreamErrorCode
	connCode         = quic.ApplicationErrorCode
	config           = quic.Config
	streamError      = quic.StreamError
	applicationError = quic.ApplicationError
)

var listenAddr = quic.ListenAddr

func dialAddr(ctx context.Context, address string, t *tls.Config, c *config) (quicConn, error) {
	return quic.DialAddrContext(ctx, address, t, c)
}

func sendDatagram(c quicConn, data []byte) error { return c.SendMessage(data) }

func receiveDatagram(c quicConn) ([]byte, error) { return c.ReceiveMessage() }

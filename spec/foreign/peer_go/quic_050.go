//go:build quicgo050

package main

// What quic-go calls differently in Debian 13 (0.50).

import (
	"context"

	quic "github.com/quic-go/quic-go"
)

type (
	conn             = quic.Connection
	stream           = quic.Stream
	receiver         = quic.ReceiveStream
	sender           = quic.SendStream
	streamCode       = quic.StreamErrorCode
	connCode         = quic.ApplicationErrorCode
	config           = quic.Config
	streamError      = quic.StreamError
	applicationError = quic.ApplicationError
)

var listenAddr = quic.ListenAddr

var dialAddr = quic.DialAddr

func sendDatagram(c conn, data []byte) error { return c.SendDatagram(data) }

func receiveDatagram(c conn) ([]byte, error) { return c.ReceiveDatagram(context.Background()) }

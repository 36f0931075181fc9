//go:build quicgo050

package main

// What quic-go calls differently in Debian 13 (0.50).

import (
	"context"

	quic "github.com/quic-go/quic-go"
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

var dialAddr = quic.DialAddr

func sendDatagram(c quicConn, data []byte) error { return c.SendDatagram(data) }

func receiveDatagram(c quicConn) ([]byte, error) { return c.ReceiveDatagram(context.Background()) }

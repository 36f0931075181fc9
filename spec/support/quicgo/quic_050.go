//go:build quicgo050

package main

// quic-go as Debian 13 has it (0.50).

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	quic "github.com/quic-go/quic-go"
)

type (
	quicConn    = quic.Connection
	quicStream  = quic.Stream
	quicReceive = quic.ReceiveStream
	quicSend    = quic.SendStream
	streamCode  = quic.StreamErrorCode
	connCode    = quic.ApplicationErrorCode
)

var quicConfig = &quic.Config{
	MaxIdleTimeout:        30 * time.Second,
	HandshakeIdleTimeout:  5 * time.Second,
	EnableDatagrams:       true,
	MaxIncomingStreams:    1024,
	MaxIncomingUniStreams: 16,
}

func quicDial(ctx context.Context, address string, t *tls.Config) (quicConn, error) {
	return quic.DialAddr(ctx, address, t, quicConfig)
}

func quicListen(address string, t *tls.Config) (accept func() (quicConn, error), local net.Addr, err error) {
	l, err := quic.ListenAddr(address, t, quicConfig)
	if err != nil {
		return nil, nil, err
	}
	return func() (quicConn, error) { return l.Accept(context.Background()) }, l.Addr(), nil
}

func quicSendDatagram(c quicConn, data []byte) error { return c.SendDatagram(data) }

func quicReceiveDatagram(c quicConn) ([]byte, error) { return c.ReceiveDatagram(context.Background()) }

// closedWith says with which application error code the peer closed the connection, or reset or stopped a stream.
func closedWith(err error) (code uint64, ok bool) {
	var app *quic.ApplicationError
	if errors.As(err, &app) {
		return uint64(app.ErrorCode), true
	}
	var stream *quic.StreamError
	if errors.As(err, &stream) {
		return uint64(stream.ErrorCode), true
	}
	return 0, false
}

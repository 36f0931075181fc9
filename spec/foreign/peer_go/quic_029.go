//go:build !quicgo050

package main

// quic-go as Debian 12 has it (0.29).

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	quic "github.com/lucas-clemente/quic-go"
)

type (
	conn       = quic.Connection
	stream     = quic.Stream
	receiver   = quic.ReceiveStream
	sender     = quic.SendStream
	streamCode = quic.StreamErrorCode
	connCode   = quic.ApplicationErrorCode
)

var config = &quic.Config{MaxIdleTimeout: 30 * time.Second, HandshakeIdleTimeout: 5 * time.Second, EnableDatagrams: true}

func dialAddress(ctx context.Context, address string, t *tls.Config) (conn, error) {
	return quic.DialAddrContext(ctx, address, t, config)
}

func listen(address string, t *tls.Config) (func() (conn, error), net.Addr, error) {
	l, err := quic.ListenAddr(address, t, config)
	if err != nil {
		return nil, nil, err
	}
	return func() (conn, error) { return l.Accept(context.Background()) }, l.Addr(), nil
}

func sendDatagram(c conn, data []byte) error { return c.SendMessage(data) }

func receiveDatagram(c conn) ([]byte, error) { return c.ReceiveMessage() }

func resumed(c conn) bool { return c.ConnectionState().TLS.DidResume }

func streamCodeOf(err error) (uint64, bool) {
	var e *quic.StreamError
	if errors.As(err, &e) {
		return uint64(e.ErrorCode), true
	}
	return 0, false
}

func closeOf(err error) (code uint64, why string, remote, ok bool) {
	var e *quic.ApplicationError
	if errors.As(err, &e) {
		return uint64(e.ErrorCode), e.ErrorMessage, e.Remote, true
	}
	return 0, "", false, false
}

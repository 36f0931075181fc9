package main

// quic-go as the rest sees it, whatever Debian calls it (quic_029.go, quic_050.go).

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

var quicConfig = &config{
	MaxIdleTimeout:        30 * time.Second,
	HandshakeIdleTimeout:  5 * time.Second,
	EnableDatagrams:       true,
	MaxIncomingStreams:    1024,
	MaxIncomingUniStreams: 16,
}

func quicDial(ctx context.Context, address string, t *tls.Config) (quicConn, error) {
	return dialAddr(ctx, address, t, quicConfig)
}

func quicListen(address string, t *tls.Config) (accept func() (quicConn, error), local net.Addr, err error) {
	l, err := listenAddr(address, t, quicConfig)
	if err != nil {
		return nil, nil, err
	}
	return func() (quicConn, error) { return l.Accept(context.Background()) }, l.Addr(), nil
}

// closedWith says with which application error code the peer closed the connection, or reset or stopped a stream.
func closedWith(err error) (code uint64, ok bool) {
	var app *applicationError
	if errors.As(err, &app) {
		return uint64(app.ErrorCode), true
	}
	var stream *streamError
	if errors.As(err, &stream) {
		return uint64(stream.ErrorCode), true
	}
	return 0, false
}

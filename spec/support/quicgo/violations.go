package main

// Checks that end in a closed connection: each has one of its own.

import (
	"errors"
	"fmt"
	"time"
)

// closes runs spoil on a fresh session and wants its connection closed with one of these application codes.
func closes(t *client, spoil func(c *client) error, codes ...uint64) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.conn.CloseWithError(0, "")
	if err = spoil(c); err != nil {
		return err
	}
	return wantClosed(c.conn, codes...)
}

func wantClosed(conn quicConn, codes ...uint64) error {
	select {
	case <-conn.Context().Done():
	case <-time.After(5 * time.Second):
		return errors.New("the connection is still open after 5 s")
	}
	_, err := conn.OpenUniStream()
	got, ok := closedWith(err)
	for _, code := range codes {
		if ok && got == code {
			return nil
		}
	}
	return fmt.Errorf("closed with %v, not code %#x", err, codes)
}

func exchangeBytes(b []byte) func(c *client) error {
	return func(c *client) error {
		s, err := c.conn.OpenStream()
		if err != nil {
			return err
		}
		_, err = s.Write(b)
		return err
	}
}

func checkEvenFrame(t *client) error {
	return closes(t, exchangeBytes(putFrame(nil, 0x3c, []byte("?"))), codeProtocol)
}

func checkHelloTwice(t *client) error {
	return closes(t, func(c *client) error {
		_, err := c.control.Write(putFrame(nil, frameHello, (&hello{}).encode()))
		return err
	}, codeProtocol, codeHello)
}

func checkShortBody(t *client) error {
	r := callOf("math.add", 1, 2)
	whole := (&r).encode()
	return closes(t, exchangeBytes(putFrame(nil, frameRequest, whole[:5])), codeProtocol)
}

// A request over the limit is refused by its announced length, with a status: nothing else of the session ends.
func checkTooLarge(t *client) error {
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.conn.CloseWithError(0, "")
	s, err := c.conn.OpenStream()
	if err != nil {
		return err
	}
	limit := t.theirs.number(1, 65536) + 64*1024
	if _, err = s.Write(putVarint(putVarint(nil, frameRequest), limit)); err != nil {
		return err
	}
	x := &exchange{p: c.peer, stream: s, frames: newFrameReader(s)}
	a, err := x.finish()
	if err != nil {
		return err
	}
	_, err = a.values()
	return wantFailure(err, statusExhausted, "resource_exhausted")
}

func checkNoHello(t *client) error {
	conn, err := dialConn()
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	s, err := conn.OpenUniStream()
	if err != nil {
		return err
	}
	if _, err = s.Write(putFrame(putVarint(nil, uniControl), frameCancel, []byte{1, codeCancelled})); err != nil {
		return err
	}
	return wantClosed(conn, codeHello)
}

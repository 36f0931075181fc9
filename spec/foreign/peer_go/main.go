// The conversation of spec/foreign/README.md on quic-go.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	alpn     = "foreign/1"
	patience = 10 * time.Second
)

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// seen is what a connection of the acceptor remembers.
type seen struct {
	sync.Mutex
	codes map[string]string
}

func (s *seen) set(what string, err error) {
	if code, ok := streamCodeOf(err); ok {
		s.note(what, strconv.FormatUint(code, 10))
	}
}

func (s *seen) note(what, code string) {
	s.Lock()
	s.codes[what] = code
	s.Unlock()
}

func (s *seen) get(what string) string {
	s.Lock()
	defer s.Unlock()
	if code, ok := s.codes[what]; ok {
		return code
	}
	return "none"
}

func answer(s sender, text string) error {
	if _, err := io.WriteString(s, text); err != nil {
		return err
	}
	return s.Close()
}

func serveStream(c conn, s stream, state *seen) error {
	in := bufio.NewReader(s)
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	word, argument, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	switch word {
	case "echo":
		if _, err := io.Copy(s, in); err != nil {
			return err
		}
		return s.Close()
	case "uni":
		u, err := c.OpenUniStream()
		if err != nil {
			return err
		}
		if err := answer(u, "from the acceptor"); err != nil {
			return err
		}
		return s.Close()
	case "open":
		own, err := c.OpenStream()
		if err != nil {
			return err
		}
		if err := answer(own, "question"); err != nil {
			return err
		}
		text, err := io.ReadAll(own)
		if err != nil {
			return err
		}
		return answer(s, string(text))
	case "reset":
		s.CancelWrite(streamCode(number(argument)))
	case "stop":
		s.CancelRead(streamCode(number(argument)))
		return answer(s, "stopped")
	case "hold":
		state.note("hold", "1")
		_, err := io.Copy(io.Discard, in)
		state.set("reset", err)
		return s.Close()
	case "pour":
		block := bytes.Repeat([]byte("x"), 10000)
		for {
			if _, err := s.Write(block); err != nil {
				state.set("stop", err)
				return nil
			}
		}
	case "seen":
		return answer(s, state.get(argument))
	case "resumed":
		text := "no"
		if resumed(c) {
			text = "yes"
		}
		return answer(s, text)
	case "close":
		code, why, _ := strings.Cut(argument, " ")
		return c.CloseWithError(connCode(number(code)), why)
	}
	return nil
}

func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 62)
	return n
}

func serveConn(c conn) {
	state := &seen{codes: map[string]string{}}
	go func() {
		for {
			s, err := c.AcceptUniStream(context.Background())
			if err != nil {
				return
			}
			text, err := io.ReadAll(s)
			if err != nil {
				return
			}
			u, err := c.OpenUniStream()
			if err != nil {
				return
			}
			answer(u, strings.ToUpper(string(text)))
		}
	}()
	go func() {
		for {
			data, err := receiveDatagram(c)
			if err != nil {
				return
			}
			sendDatagram(c, bytes.ToUpper(data))
		}
	}()
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			if code, why, remote, ok := closeOf(err); ok && remote {
				say("closed %d %s", code, why)
			}
			return
		}
		go serveStream(c, s, state)
	}
}

func accept(cert, key string) error {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return err
	}
	next, address, err := listen("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{alpn}})
	if err != nil {
		return err
	}
	say("ready %s", address)
	for {
		c, err := next()
		if err != nil {
			return err
		}
		go serveConn(c)
	}
}

// The dialler.

type dialler struct {
	address string
	tls     *tls.Config
}

func (d *dialler) dial() (conn, error) {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	return dialAddress(ctx, d.address, d.tls)
}

func command(c conn, line string) (stream, error) {
	s, err := c.OpenStream()
	if err != nil {
		return nil, err
	}
	s.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(s, line+"\n")
	return s, err
}

func ask(c conn, line string) (string, error) {
	s, err := command(c, line)
	if err != nil {
		return "", err
	}
	s.Close()
	text, err := io.ReadAll(s)
	return string(text), err
}

func want(expected, got any) error {
	if expected != got {
		return fmt.Errorf("wanted %v, got %v", expected, got)
	}
	return nil
}

func wantText(expected string, from io.Reader) error {
	text, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	return want(expected, string(text))
}

func wantSeen(c conn, what, code string) error {
	got, err := "none", error(nil)
	for i := 0; i < 100 && got == "none" && err == nil; i++ {
		time.Sleep(20 * time.Millisecond)
		got, err = ask(c, "seen "+what)
	}
	if err != nil {
		return err
	}
	return want(code, got)
}

func wantCode(code uint64, err error) error {
	got, ok := streamCodeOf(err)
	if !ok {
		return fmt.Errorf("no code but %v", err)
	}
	return want(code, got)
}

func acceptUni(c conn) (receiver, error) {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	return c.AcceptUniStream(ctx)
}

var checks = []struct {
	name string
	run  func(c conn) error
}{
	{"echo", func(c conn) error {
		text := bytes.Repeat([]byte("0123456789abcdef"), 65536)
		s, err := command(c, "echo")
		if err != nil {
			return err
		}
		go func() { s.Write(text); s.Close() }()
		got, err := io.ReadAll(s)
		if err != nil {
			return err
		}
		return want(true, bytes.Equal(text, got))
	}},
	{"ten streams at once", func(c conn) error {
		var streams []stream
		for i := 0; i < 10; i++ {
			s, err := command(c, "echo")
			if err != nil {
				return err
			}
			fmt.Fprintf(s, "stream %d", i)
			streams = append(streams, s)
		}
		for i := 9; i >= 0; i-- {
			streams[i].Close()
			if err := wantText(fmt.Sprintf("stream %d", i), streams[i]); err != nil {
				return err
			}
		}
		return nil
	}},
	{"one-way streams", func(c conn) error {
		if _, err := ask(c, "uni"); err != nil {
			return err
		}
		in, err := acceptUni(c)
		if err != nil {
			return err
		}
		if err := wantText("from the acceptor", in); err != nil {
			return err
		}
		out, err := c.OpenUniStream()
		if err != nil {
			return err
		}
		answer(out, "one way")
		if in, err = acceptUni(c); err != nil {
			return err
		}
		return wantText("ONE WAY", in)
	}},
	{"a stream of the acceptor", func(c conn) error {
		s, err := command(c, "open")
		if err != nil {
			return err
		}
		ctx, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		theirs, err := c.AcceptStream(ctx)
		if err != nil {
			return err
		}
		if err := wantText("question", theirs); err != nil {
			return err
		}
		answer(theirs, "answer")
		return wantText("answer", s)
	}},
	{"a reset is told", func(c conn) error {
		s, err := command(c, "reset 7")
		if err != nil {
			return err
		}
		_, err = io.ReadAll(s)
		return wantCode(7, err)
	}},
	{"a stop is told", func(c conn) error {
		s, err := command(c, "stop 9")
		block := bytes.Repeat([]byte("x"), 10000)
		for err == nil {
			_, err = s.Write(block)
		}
		if err := wantCode(9, err); err != nil {
			return err
		}
		return wantText("stopped", s)
	}},
	{"a reset arrives", func(c conn) error {
		s, err := command(c, "hold")
		if err != nil {
			return err
		}
		if err := wantSeen(c, "hold", "1"); err != nil {
			return err
		}
		s.CancelWrite(5)
		return wantSeen(c, "reset", "5")
	}},
	{"a stop arrives", func(c conn) error {
		s, err := command(c, "pour")
		if err != nil {
			return err
		}
		if _, err := s.Read(make([]byte, 100)); err != nil {
			return err
		}
		s.CancelRead(6)
		return wantSeen(c, "stop", "6")
	}},
	{"datagram", func(c conn) error {
		got := make(chan []byte, 20)
		go func() {
			for {
				data, err := receiveDatagram(c)
				if err != nil {
					return
				}
				got <- data
			}
		}()
		for i := 0; i < 20; i++ {
			if err := sendDatagram(c, []byte("ping")); err != nil {
				return err
			}
			select {
			case data := <-got:
				return want("PING", string(data))
			case <-time.After(500 * time.Millisecond):
			}
		}
		return errors.New("no answer")
	}},
	{"close is told", func(c conn) error {
		s, err := command(c, "close 42 enough")
		if err != nil {
			return err
		}
		_, err = io.ReadAll(s)
		code, why, remote, ok := closeOf(err)
		if !ok || !remote {
			return fmt.Errorf("not closed by the peer but %v", err)
		}
		return want("42 enough", fmt.Sprintf("%d %s", code, why))
	}},
}

func (d *dialler) run() int {
	failures := 0
	attempt := func(name string, run func() error) {
		if err := run(); err != nil {
			failures++
			say("failed %s: %v", name, err)
		} else {
			say("ok %s", name)
		}
	}
	c, err := d.dial()
	if err != nil {
		say("failed connect: %v", err)
		return 1
	}
	for _, k := range checks {
		attempt(k.name, func() error { return k.run(c) })
	}
	attempt("resumption", func() error {
		c, err := d.dial()
		if err != nil {
			return err
		}
		text, err := ask(c, "resumed")
		if err != nil {
			return err
		}
		if err := want(true, resumed(c)); err != nil {
			return err
		}
		return want("yes", text)
	})
	attempt("close arrives", func() error {
		c, err := d.dial()
		if err != nil {
			return err
		}
		if _, err := ask(c, "seen stop"); err != nil {
			return err
		}
		return c.CloseWithError(43, "done")
	})
	time.Sleep(100 * time.Millisecond) // the close leaves from a goroutine
	return failures
}

func main() {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "accept":
		time.AfterFunc(120*time.Second, func() { os.Exit(3) })
		if err := accept(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case len(os.Args) == 3 && os.Args[1] == "dial":
		time.AfterFunc(60*time.Second, func() { os.Exit(3) })
		d := &dialler{os.Args[2], &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}, ServerName: "localhost",
			ClientSessionCache: tls.NewLRUClientSessionCache(10)}}
		if d.run() > 0 {
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: peer_go accept CERT KEY | dial ADDRESS")
		os.Exit(2)
	}
}

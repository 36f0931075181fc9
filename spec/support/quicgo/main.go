// quicgo is a second implementation of echostream/1 on quic-go, written from docs/PROTOCOL.md, that tries a server and
// prints one JSON line per check. With -serve it is a server itself.
//
//	quicgo -connect 127.0.0.1:5000 -pin sha256:…
//	quicgo -serve 127.0.0.1:0
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"time"
)

var (
	connectTo = flag.String("connect", "", "`address` of the server to try")
	pin       = flag.String("pin", "", "sha256:… of the server's public key; without it any key is taken")
	serveOn   = flag.String("serve", "", "`address` to listen on instead")
	only      = flag.String("only", "", "run only the check of that `name`")
	list      = flag.Bool("list", false, "print the names of the checks")
)

const alpn = "echostream/1"

func clientTLS() *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, // the pin, checked below, is the trust
		NextProtos:         []string{alpn},
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if *pin == "" {
				return nil
			}
			cert, err := x509.ParseCertificate(raw[0])
			if err != nil {
				return err
			}
			sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
			if got := "sha256:" + hex.EncodeToString(sum[:]); got != *pin {
				return fmt.Errorf("the server's pin is %s", got)
			}
			return nil
		},
	}
}

func dialConn() (quicConn, error) {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	return quicDial(ctx, *connectTo, clientTLS())
}

func dialClient() (*client, error) {
	conn, err := dialConn()
	if err != nil {
		return nil, err
	}
	c := &client{dial: dialClient, heard: make(chan event, 16)}
	c.peer = &peer{conn: conn, calls: clientCalls, streams: map[string]streamHandler{"echo": echoStream},
		events: func(e event) { c.heard <- e }}
	return c, c.start()
}

type line struct {
	Check  string  `json:"check"`
	OK     bool    `json:"ok"`
	Skip   bool    `json:"skipped,omitempty"`
	Ms     float64 `json:"ms"`
	Detail string  `json:"detail,omitempty"`
}

func runChecks() int {
	out := json.NewEncoder(os.Stdout)
	c, err := dialClient()
	if err != nil {
		out.Encode(line{Check: "connect", Detail: err.Error()})
		return 1
	}
	passed, failed := 0, 0
	for _, k := range checks {
		if *only != "" && *only != k.name {
			continue
		}
		begin := time.Now()
		err := k.run(c)
		l := line{Check: k.name, OK: err == nil, Ms: float64(time.Since(begin).Microseconds()) / 1000}
		if errors.Is(err, errSkipped) {
			l.OK, l.Skip = true, true
		}
		if err != nil {
			l.Detail = err.Error()
		}
		if l.OK {
			passed++
		} else {
			failed++
		}
		out.Encode(l)
	}
	select {
	case err := <-c.failed:
		failed++
		out.Encode(line{Check: "the server kept to the protocol", Detail: err.Error()})
	default:
		passed++
		out.Encode(line{Check: "the server kept to the protocol", OK: true})
	}
	c.conn.CloseWithError(0, "done")
	out.Encode(map[string]any{"summary": true, "passed": passed, "failed": failed})
	if failed > 0 {
		return 1
	}
	return 0
}

func selfSigned() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(13 * 24 * time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, "sha256:" + hex.EncodeToString(sum[:]), nil
}

func runServer() error {
	cert, ownPin, err := selfSigned()
	if err != nil {
		return err
	}
	accept, local, err := quicListen(*serveOn, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{alpn}})
	if err != nil {
		return err
	}
	fmt.Println("ready", local, ownPin)
	for {
		conn, err := accept()
		if err != nil {
			return err
		}
		go func() {
			p := (&serverSide{}).peer(conn)
			if err := p.start(); err != nil {
				conn.CloseWithError(codeProtocol, "no control stream")
			}
		}()
	}
}

func main() {
	flag.Parse()
	switch {
	case *list:
		for _, k := range checks {
			fmt.Println(k.name)
		}
	case *serveOn != "":
		if err := runServer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case *connectTo != "":
		os.Exit(runChecks())
	default:
		flag.Usage()
		os.Exit(2)
	}
}

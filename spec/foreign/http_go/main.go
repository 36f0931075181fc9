// HTTP/3 with quic-go's client: `http_go ADDRESS SIZE CALLS` asks spec/foreign/http_server.lua and prints
// "ok NAME", "skipped NAME: why" or "failed NAME: why" for each check.
package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const period = 251

// pattern reads as bytes that count up to period, again and again.
type pattern struct{ at, size int }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.size {
		return 0, io.EOF
	}
	n := min(len(b), p.size-p.at)
	for i := 0; i < n; i++ {
		b[i] = byte((p.at + i) % period)
	}
	p.at += n
	return n, nil
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

type check struct {
	name string
	run  func(c *http.Client, base string, size, calls int) error
}

type skipped string

func (s skipped) Error() string { return string(s) }

func fetch(c *http.Client, method, url string, body io.Reader, fields ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return res, got, err
}

func want(res *http.Response, got []byte, err error, status int, text string) error {
	if err != nil {
		return err
	}
	if res.StatusCode != status || string(got) != text {
		return fmt.Errorf("status %d, %q", res.StatusCode, got)
	}
	return nil
}

func get(c *http.Client, base string, size, calls int) error {
	res, got, err := fetch(c, "GET", base+"/hello", nil)
	if err := want(res, got, err, 200, "hello\n"); err != nil {
		return err
	}
	if res.ProtoMajor != 3 || res.Header.Get("X-From") != "echostream" {
		return fmt.Errorf("HTTP/%d, fields %v", res.ProtoMajor, res.Header)
	}
	return nil
}

func head(c *http.Client, base string, size, calls int) error {
	res, got, err := fetch(c, "HEAD", base+"/hello", nil)
	if err := want(res, got, err, 200, ""); err != nil {
		return err
	}
	if res.Header.Get("Content-Length") != "6" {
		return fmt.Errorf("content-length %q", res.Header.Get("Content-Length"))
	}
	return nil
}

func post(c *http.Client, base string, size, calls int) error {
	res, got, err := fetch(c, "POST", base+"/echo", strings.NewReader("there and back"))
	return want(res, got, err, 200, "there and back")
}

func notFound(c *http.Client, base string, size, calls int) error {
	res, _, err := fetch(c, "GET", base+"/nowhere", nil)
	if err == nil && res.StatusCode != 404 {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return err
}

func down(c *http.Client, base string, size, calls int) error {
	res, err := c.Get(base + "/bytes/" + strconv.Itoa(size))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	left, right := make([]byte, 65536), make([]byte, 65536)
	expected := &pattern{size: size}
	total := 0
	for {
		n, err := io.ReadFull(res.Body, left)
		m, _ := io.ReadFull(expected, right)
		if n != m || !bytes.Equal(left[:n], right[:n]) {
			return fmt.Errorf("other bytes behind %d: %d for %d", total, n, m)
		}
		total += n
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func up(c *http.Client, base string, size, calls int) error {
	res, got, err := fetch(c, "POST", base+"/bytes", &pattern{size: size})
	return want(res, got, err, 200, strconv.Itoa(size)+"\n")
}

func there(c *http.Client, base string, size, calls int) error {
	res, got, err := fetch(c, "POST", base+"/echo", &pattern{size: size / 10})
	if err != nil {
		return err
	}
	expected, _ := io.ReadAll(&pattern{size: size / 10})
	if res.StatusCode != 200 || !bytes.Equal(got, expected) {
		return fmt.Errorf("status %d, %d bytes", res.StatusCode, len(got))
	}
	return nil
}

func crowd(c *http.Client, base string, size, calls int) error {
	var wg sync.WaitGroup
	errs := make(chan error, calls)
	for i := 0; i < calls; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			text := fmt.Sprintf("%032d", i)
			res, got, err := fetch(c, "POST", base+"/echo", strings.NewReader(text))
			if err := want(res, got, err, 200, text); err != nil {
				errs <- err
			}
		}(i)
	}
	wg.Wait()
	select {
	case err := <-errs:
		return fmt.Errorf("%d failed, one: %w", len(errs)+1, err)
	default:
		return nil
	}
}

func partial(c *http.Client, base string, size, calls int) error {
	res, got, err := fetch(c, "GET", base+"/files/pattern", nil, "Range", "bytes=250-259")
	if err != nil {
		return err
	}
	if res.StatusCode != 206 || !bytes.Equal(got, []byte{250, 0, 1, 2, 3, 4, 5, 6, 7, 8}) {
		return fmt.Errorf("status %d, %v", res.StatusCode, got)
	}
	return nil
}

func rpc(c *http.Client, base string, size, calls int) error {
	res, got, err := fetch(c, "POST", base+"/rpc/math.add", strings.NewReader("[10,20]"), "Content-Type", "application/json")
	return want(res, got, err, 200, "30")
}

func main() {
	size, _ := strconv.Atoi(os.Args[2])
	calls, _ := strconv.Atoi(os.Args[3])
	transport := newTransport(&tls.Config{InsecureSkipVerify: true})
	client := &http.Client{Transport: transport, Timeout: 120 * time.Second}
	checks := []check{{"get", get}, {"head", head}, {"post", post}, {"not found", notFound}, {"a large body down", down},
		{"a large body up", up}, {"a large body there and back", there}, {"many in flight", crowd}, {"a range", partial}, {"a call", rpc},
		{"trailers", trailers}, {"early hints", hints}}
	for _, k := range checks {
		switch err := k.run(client, "https://"+os.Args[1], size, calls).(type) {
		case nil:
			fmt.Printf("ok %s\n", k.name)
		case skipped:
			fmt.Printf("skipped %s: %s\n", k.name, err)
		default:
			fmt.Printf("failed %s: %v\n", k.name, err)
		}
	}
	transport.Close()
}

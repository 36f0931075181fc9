package main

import (
	"bytes"
	"encoding/hex"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
)

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %x\nwant %x", what, got, want)
	}
}

// content takes the one frame out of golden bytes.
func content(t *testing.T, golden []byte, kind uint64) []byte {
	t.Helper()
	f := newFrameReader(bytes.NewReader(golden))
	got, c, err := f.next()
	if err != nil || got != kind {
		t.Fatalf("frame %#x, %v; want %#x", got, err, kind)
	}
	if _, _, err = f.next(); err != io.EOF {
		t.Fatalf("after the frame: %v", err)
	}
	return c
}

func TestGoldenHello(t *testing.T) {
	golden := unhex(t, "00 001e000000 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064")
	h := hello{params: []param{{1, putVarint(nil, 4<<20)}, {3, putVarint(nil, 100)}}}
	for i := range h.instance {
		h.instance[i] = byte(i)
	}
	wantBytes(t, "HELLO", putFrame(putVarint(nil, uniControl), frameHello, h.encode()), golden)
	back, err := decodeHello(content(t, golden[1:], frameHello))
	if err != nil || !reflect.DeepEqual(back, h) {
		t.Errorf("decoded %+v, %v", back, err)
	}
	if back.number(1, 0) != 4<<20 || back.number(3, 0) != 100 || back.number(7, 256) != 256 {
		t.Error("parameters")
	}
}

func TestGoldenRequest(t *testing.T) {
	golden := unhex(t, "02 15 04 01 01 08 6d6174682e616464 80007530 03 00 920a14")
	r := request{flags: flagIdempotent, codec: codecMsgpack, id: 1, method: "math.add", deadline: 30000, priority: 3,
		metadata: map[string]string{}, payload: encodeValues(10, 20)}
	wantBytes(t, "REQUEST", putFrame(nil, frameRequest, r.encode()), golden)
	back, err := decodeRequest(content(t, golden, frameRequest))
	if err != nil || !reflect.DeepEqual(back, r) {
		t.Errorf("decoded %+v, %v", back, err)
	}
}

func TestGoldenResponses(t *testing.T) {
	golden := unhex(t, "04 06 00 01 00 00 911e")
	r := response{codec: codecMsgpack, trailers: map[string]string{}, payload: encodeValues(30)}
	wantBytes(t, "RESPONSE", putFrame(nil, frameResponse, r.encode()), golden)
	back, err := decodeResponse(content(t, golden, frameResponse))
	if err != nil || !reflect.DeepEqual(back, r) {
		t.Errorf("decoded %+v, %v", back, err)
	}
	golden = unhex(t, "04 2a 00 01 0c 00 10 6d6574686f645f6e6f745f666f756e64 12 6e6f206d6574686f64206d6174682e737562 00 00")
	r = response{codec: codecMsgpack, status: statusNoMethod, trailers: map[string]string{}, code: "method_not_found",
		message: "no method math.sub", payload: []byte{}}
	wantBytes(t, "failure", putFrame(nil, frameResponse, r.encode()), golden)
	back, err = decodeResponse(content(t, golden, frameResponse))
	if err != nil || !reflect.DeepEqual(back, r) {
		t.Errorf("decoded %+v, %v", back, err)
	}
}

func TestGoldenEventAndCancel(t *testing.T) {
	golden := unhex(t, "01 0c0f000100036c6f670091a568656c6c6f")
	e := event{codec: codecMsgpack, name: "log", metadata: map[string]string{}, payload: encodeValues("hello")}
	wantBytes(t, "EVENT", putFrame(putVarint(nil, uniLane), frameEvent, e.encode()), golden)
	back, err := decodeEvent(content(t, golden[1:], frameEvent))
	if err != nil || !reflect.DeepEqual(back, e) {
		t.Errorf("decoded %+v, %v", back, err)
	}
	wantBytes(t, "CANCEL", putFrame(nil, frameCancel, putVarint(putVarint(nil, 1), codeCancelled)), unhex(t, "0a 02 01 10"))
}

func TestDataKeepsItsOptionalFields(t *testing.T) {
	d := data{flags: flagSeq | flagWallTime, codec: codecRaw, seq: 7, wallTime: 1700000000000000, payload: []byte("x")}
	back, err := decodeData(d.encode())
	if err != nil || !reflect.DeepEqual(back, d) {
		t.Errorf("decoded %+v, %v", back, err)
	}
	if _, err = decodeData([]byte{flagZstd, 0}); err == nil {
		t.Error("zstd was never announced")
	}
}

func TestEveryTruncationFails(t *testing.T) {
	r := request{codec: codecMsgpack, id: 1, method: "a", metadata: map[string]string{"k": "v"}}
	whole := r.encode()
	for n := range whole {
		if _, err := decodeRequest(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes were enough", n, len(whole))
		}
	}
}

func TestFramesAreSkippedOrRefused(t *testing.T) {
	stream := putFrame(putFrame(nil, 0x21, []byte("unknown")), frameCancel, []byte{1, 16})
	content(t, stream, frameCancel)
	if _, _, err := newFrameReader(bytes.NewReader(putFrame(nil, 0x20, nil))).next(); err == nil {
		t.Error("an unknown even type passed")
	}
	if _, _, err := newFrameReader(bytes.NewReader([]byte{0x0a, 0x05, 1})).next(); err != io.ErrUnexpectedEOF {
		t.Errorf("half a frame: %v", err)
	}
}

func TestValues(t *testing.T) {
	list := []any{nil, true, false, int64(0), int64(127), int64(128), int64(255), int64(256), int64(65535), int64(65536), int64(1 << 40),
		int64(math.MaxInt64), int64(-1), int64(-32), int64(-33), int64(-128), int64(-129), int64(-32769), int64(math.MinInt64), 1.0, 0.1,
		"", strings.Repeat("a", 31), strings.Repeat("b", 32), strings.Repeat("c", 256), strings.Repeat("d", 70000), "\xff\x00",
		[]any{}, []any{[]any{nil}}, map[string]any{"a": int64(1), "b": map[string]any{}}}
	back, err := decodeValues(encodeValues(list...))
	if err != nil || !reflect.DeepEqual(back, list) {
		t.Errorf("decoded %v, %v", back, err)
	}
	for _, bad := range []string{"", "91", "9100 00", "91cfffffffffffffffff", "91c1", "dd00ffffff"} {
		if got, err := decodeValues(unhex(t, bad)); err == nil {
			t.Errorf("%s became %v", bad, got)
		}
	}
}

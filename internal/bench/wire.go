package bench

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"time"

	"kith/proto"
)

// Bounds of one exchange.
const (
	answerBytesMax = 8 << 20
	exchangeMax    = 30 * time.Second
)

// wire is one keep-alive connection that speaks as little HTTP as it takes:
// the generator shares the machine with what it measures.
type wire struct {
	conn net.Conn
	buf  []byte
	set  time.Time // the deadline; setting it costs as much as a small write
	all  []byte    // of buf: the last answer, with its header
}

func dial(ctx context.Context, addr string) (*wire, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "connect to the measured process: %w", err)
	}
	return &wire{conn: conn, buf: make([]byte, 16<<10)}, nil
}

func (w *wire) close() { _ = w.conn.Close() }

// do sends a request and reads its answer. The body is good until the next.
func (w *wire) do(request []byte) (status int, body []byte, err error) {
	if now := time.Now(); now.Sub(w.set) > exchangeMax {
		if err := w.conn.SetDeadline(now.Add(exchangeMax * 2)); err != nil {
			return 0, nil, err
		}
		w.set = now
	}
	if _, err := w.conn.Write(request); err != nil {
		return 0, nil, proto.Errorf(proto.CodeUnavailable, "the measured process closed a connection: %w", err)
	}
	have, need := 0, -1
	var head head
	for {
		if have == len(w.buf) {
			w.buf = append(w.buf, make([]byte, len(w.buf))...)
		}
		n, err := w.conn.Read(w.buf[have:])
		if err != nil {
			return 0, nil, proto.Errorf(proto.CodeUnavailable, "the measured process closed a connection: %w", err)
		}
		have += n
		if need < 0 {
			var ok bool
			if head, ok, err = readHead(w.buf[:have]); err != nil {
				return 0, nil, err
			} else if !ok {
				continue
			}
			need = head.size + head.body
		}
		if have >= need {
			w.all = w.buf[:need]
			return head.status, w.buf[head.size:need], nil
		}
	}
}

// head is what matters of an answer's header.
type head struct{ status, size, body int }

var (
	headEnd    = []byte("\r\n\r\n")
	lengthName = []byte("\r\nContent-Length: ")
)

// readHead reads a header with a Content-Length, as net/http writes it; ok is
// false while it is not complete.
func readHead(b []byte) (h head, ok bool, err error) {
	end := bytes.Index(b, headEnd)
	if end < 0 {
		if len(b) > 64<<10 {
			return h, false, proto.Errorf(proto.CodeInvalid, "an answer's header is too large")
		}
		return h, false, nil
	}
	h.size = end + len(headEnd)
	if len(b) < 12 || !bytes.HasPrefix(b, []byte("HTTP/1.1 ")) {
		return h, false, proto.Errorf(proto.CodeInvalid, "an answer is not HTTP/1.1")
	}
	if h.status, err = strconv.Atoi(string(b[9:12])); err != nil {
		return h, false, proto.Errorf(proto.CodeInvalid, "an answer has no status: %w", err)
	}
	at := bytes.Index(b[:end], lengthName)
	if at < 0 {
		return h, false, proto.Errorf(proto.CodeInvalid, "an answer of status %d has no length", h.status)
	}
	digits := b[at+len(lengthName) : end]
	if i := bytes.IndexByte(digits, '\r'); i >= 0 {
		digits = digits[:i]
	}
	h.body, err = strconv.Atoi(string(digits))
	if err != nil || h.body < 0 || h.body > answerBytesMax {
		return h, false, proto.Errorf(proto.CodeInvalid, "an answer's length %q is not valid", digits)
	}
	return h, true, nil
}

package gateway

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"kith/proto"
)

// readBody is readBodyUpTo with the usual limit.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request, dst []byte) ([]byte, error) {
	return g.readBodyUpTo(w, r, dst, g.c.BodyBytesMax)
}

// readBodyUpTo appends the body of a request to the service plane, decompressed, to
// dst. Neither the sent nor the decompressed bytes may exceed the limit.
func (g *Gateway) readBodyUpTo(w http.ResponseWriter, r *http.Request, dst []byte, limit int) ([]byte, error) {
	return g.readBeside(&g.bodies, w, r, dst, limit)
}

// readPublic is readBodyUpTo on the public plane.
func (g *Gateway) readPublic(w http.ResponseWriter, r *http.Request, dst []byte, limit int) ([]byte, error) {
	return g.readBeside(&g.publicBodies, w, r, dst, limit)
}

// readBeside is readBodyUpTo beside all others of a plane.
func (g *Gateway) readBeside(all *atomic.Int64, w http.ResponseWriter, r *http.Request, dst []byte, limit int) ([]byte, error) {
	var unpack func(io.Reader, []byte, int) ([]byte, error)
	switch encoding := r.Header.Get("Content-Encoding"); strings.ToLower(encoding) {
	case "", "identity":
		return g.readSent(all, w, r, dst, limit)
	case "gzip", "x-gzip":
		unpack = g.readGzip
	case "zstd":
		unpack = g.readZstd
	default:
		return dst, proto.Errorf(proto.CodeMediaType, "content encoding %q is not taken: use gzip, zstd or none", clip(encoding))
	}
	// What is sent is all there before it is unpacked: who sends slowly holds no
	// decoder, nor more memory than it has sent.
	packed, err := g.readSent(all, w, r, nil, limit)
	if err != nil {
		return dst, err
	}
	select {
	case g.unpacking <- struct{}{}:
		defer func() { <-g.unpacking }()
	case <-r.Context().Done():
		return dst, brokenBody(r.Context().Err())
	}
	return unpack(bytes.NewReader(packed), dst, limit)
}

// bodyFree is how much of a body counts for nothing of the memory that a plane's bodies
// under way share.
const bodyFree = 64 << 10

// readSent appends what is sent to dst, as it comes: no length that is only announced
// takes memory.
func (g *Gateway) readSent(all *atomic.Int64, w http.ResponseWriter, r *http.Request, dst []byte, limit int) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		if r.Header.Get("Expect") == "" { // else nothing is sent yet
			discard(w, r)
		}
		return dst, tooLarge(limit)
	}
	raw := &underWay{r: http.MaxBytesReader(w, r.Body, int64(limit)), all: all, most: int64(g.c.BodiesBytesMax)}
	defer raw.done()
	if n := int(r.ContentLength); n >= 0 {
		return readExactly(raw, dst, n)
	}
	dst, err := readUpTo(raw, dst, limit)
	if proto.CodeOf(err) == proto.CodeTooLarge {
		discard(w, r)
	}
	return dst, err
}

// discardBytesMax and discardFor are how much more is read of a body that is too
// large, and for how long.
const (
	discardBytesMax = 32 << 20
	discardFor      = 2 * time.Second
)

// discard reads on in a body that is refused: a client that still sends when its
// connection is closed fails by that, and does not see the answer.
func discard(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardFor)) // not every writer has deadlines
	_, _ = io.CopyN(io.Discard, r.Body, discardBytesMax)
}

// underWay counts what is held of a body that has not come whole yet.
type underWay struct {
	r    io.Reader
	all  *atomic.Int64
	most int64
	n    int64
}

func (u *underWay) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	before := max(u.n-bodyFree, 0)
	u.n += int64(n)
	if more := max(u.n-bodyFree, 0) - before; more > 0 && u.all.Add(more) > u.most {
		return 0, errBodies // so that no reader takes what came for enough
	}
	return n, err
}

func (u *underWay) done() { u.all.Add(-max(u.n-bodyFree, 0)) }

var errBodies = proto.Errorf(proto.CodeUnavailable, "too much of other bodies is under way: send this one again in a second, or in smaller parts")

func tooLarge(limit int) error {
	return proto.Errorf(proto.CodeTooLarge, "the body is over %d bytes after decompression: send several", limit)
}

// bodyStep is what a body takes at first; what has come is doubled then.
const bodyStep = 16 << 10

// readExactly appends n bytes of r to dst.
func readExactly(r io.Reader, dst []byte, n int) ([]byte, error) {
	have := len(dst)
	for end := have + n; len(dst) < end; {
		at, room := len(dst), max(cap(dst)-len(dst), len(dst)-have, bodyStep)
		dst = slices.Grow(dst, min(end-at, room))
		dst = dst[:min(end, cap(dst))]
		if _, err := io.ReadFull(r, dst[at:]); err != nil {
			return dst[:have], brokenBody(err)
		}
	}
	return dst, nil
}

// readUpTo reads all of r, which may hold limit bytes.
func readUpTo(r io.Reader, dst []byte, limit int) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	n, err := io.Copy(buf, io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return buf.Bytes(), brokenBody(err)
	case n > int64(limit):
		return buf.Bytes(), tooLarge(limit)
	}
	return buf.Bytes(), nil
}

func brokenBody(err error) error {
	var big *http.MaxBytesError
	switch {
	case errors.Is(err, errBodies):
		return errBodies
	case errors.As(err, &big):
		return tooLarge(int(big.Limit))
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return proto.Errorf(proto.CodeTooLarge, "the body's zstd window is too large: compress with a smaller one, or none")
	}
	return proto.Errorf(proto.CodeInvalid, "the body could not be read or decompressed: send it again, whole: %w", err)
}

func (g *Gateway) readGzip(r io.Reader, dst []byte, limit int) ([]byte, error) {
	z, _ := g.gzips.Get().(*gzip.Reader)
	var err error
	if z == nil {
		z, err = gzip.NewReader(r)
	} else {
		err = z.Reset(r)
	}
	if err != nil {
		return dst, brokenBody(err)
	}
	defer g.gzips.Put(z)
	return readUpTo(z, dst, limit)
}

func (g *Gateway) readZstd(r io.Reader, dst []byte, limit int) ([]byte, error) {
	z, _ := g.zstds.Get().(*zstd.Decoder)
	var err error
	if z == nil {
		z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	} else {
		err = z.Reset(r)
	}
	if err != nil {
		return dst, brokenBody(err)
	}
	defer func() {
		_ = z.Reset(nil) // lets the request go
		g.zstds.Put(z)
	}()
	return readUpTo(z, dst, limit)
}

// protobufType is the content type of the protobuf forms.
const protobufType = "application/x-protobuf"

// contentType is the request's media type without parameters. None, and what
// curl -d says when nobody told it otherwise, are JSON.
func contentType(r *http.Request) string {
	return mediaType(r.Header.Get("Content-Type"))
}

func mediaType(h string) string {
	switch h {
	case "application/json", protobufType:
		return h
	case "", "application/x-www-form-urlencoded":
		return "application/json"
	}
	t, _, err := mime.ParseMediaType(h)
	if err != nil {
		return "invalid"
	}
	return t
}

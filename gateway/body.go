package gateway

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"kith/proto"
)

// readBody is readBodyUpTo with the usual limit.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request, dst []byte) ([]byte, error) {
	return g.readBodyUpTo(w, r, dst, g.c.BodyBytesMax)
}

// readBodyUpTo appends the request's body, decompressed, to dst. Neither the
// sent nor the decompressed bytes may exceed the limit.
func (g *Gateway) readBodyUpTo(w http.ResponseWriter, r *http.Request, dst []byte, limit int) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		return dst, tooLarge(limit)
	}
	raw := http.MaxBytesReader(w, r.Body, int64(limit))
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		if n := int(r.ContentLength); n >= 0 {
			return readExactly(raw, dst, n)
		}
		return readUpTo(raw, dst, limit)
	case "gzip", "x-gzip":
		return g.readGzip(raw, dst, limit)
	case "zstd":
		return g.readZstd(raw, dst, limit)
	default:
		return dst, proto.Errorf(proto.CodeMediaType, "content encoding %q is not taken: use gzip, zstd or none", clip(encoding))
	}
}

func tooLarge(limit int) error {
	return proto.Errorf(proto.CodeTooLarge, "the body is over %d bytes after decompression: send several", limit)
}

func readExactly(r io.Reader, dst []byte, n int) ([]byte, error) {
	have := len(dst)
	dst = append(dst, make([]byte, n)...)
	if _, err := io.ReadFull(r, dst[have:]); err != nil {
		return dst[:have], brokenBody(err)
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
	h := r.Header.Get("Content-Type")
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

package gateway

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"kith/proto"
)

// The tag is written in kith.js and served as kith.min.js.
//
//go:generate go run ../internal/tagbuild kith.js kith.min.js
//go:embed kith.min.js
var tagSource []byte

// tag is the script for publishers' pages, ready to send.
type tag struct {
	plain, zipped []byte
	etag          string
}

func newTag() (tag, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(tagSource)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return tag{}, proto.Errorf(proto.CodeInternal, "compress the tag: %w", err)
	}
	sum := sha256.Sum256(tagSource)
	return tag{plain: tagSource, zipped: b.Bytes(), etag: `"` + hex.EncodeToString(sum[:8]) + `"`}, nil
}

func (g *Gateway) script(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("ETag", g.tag.etag)
	h.Set("Vary", "Accept-Encoding")
	h.Set("Cache-Control", "public, max-age=3600")
	h.Set("Content-Type", "text/javascript; charset=utf-8")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Header.Get("If-None-Match") == g.tag.etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	body := g.tag.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = g.tag.zipped
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
	return nil
}

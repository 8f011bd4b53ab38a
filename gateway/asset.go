package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"kith/proto"
)

// asset is an embedded file, ready to send.
type asset struct {
	plain, zipped []byte
	etag, kind    string // kind is its content type
}

func newAsset(kind string, plain []byte) (asset, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(plain)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return asset{}, proto.Errorf(proto.CodeInternal, "compress an embedded file: %w", err)
	}
	sum := sha256.Sum256(plain)
	return asset{plain, b.Bytes(), `"` + hex.EncodeToString(sum[:8]) + `"`, kind}, nil
}

// send answers with the file, compressed if the browser takes that, or says that
// what it has is still right.
func (a *asset) send(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("ETag", a.etag)
	h.Set("Vary", "Accept-Encoding")
	h.Set("Content-Type", a.kind)
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := a.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = a.zipped
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

package gateway

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"kith/proto"
)

// asset is an embedded file, ready to send.
type asset struct {
	plain, zipped []byte
	etag          string // weak: it is of both forms
	kind          string // its content type
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
	return asset{plain, b.Bytes(), `W/"` + hex.EncodeToString(sum[:8]) + `"`, kind}, nil
}

// assetTypes are content types, by what names end with.
var assetTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

// readAssets gives embedded files of a folder, by name. Callers do so once in a
// process: to compress them takes longer than all else that a gateway begins with.
func readAssets(files embed.FS, folder string, names ...string) (map[string]asset, error) {
	list := map[string]asset{}
	for _, name := range names {
		b, err := files.ReadFile(folder + "/" + name)
		kind, known := assetTypes[path.Ext(name)]
		if err == nil && !known {
			err = proto.Errorf(proto.CodeInternal, "its type is not known")
		}
		if err == nil {
			list[name], err = newAsset(kind, b)
		}
		if err != nil {
			return nil, proto.Errorf(proto.CodeInternal, "the embedded file %s/%s: %w", folder, name, err)
		}
	}
	return list, nil
}

// send answers with the file, compressed if the browser takes that, or says that
// what it has is still right.
func (a *asset) send(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("ETag", a.etag)
	h.Set("Vary", "Accept-Encoding")
	h.Set("Content-Type", a.kind)
	h.Set("X-Content-Type-Options", "nosniff")
	if matches(r.Header, a.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := a.plain
	if takesGzip(r.Header) {
		h.Set("Content-Encoding", "gzip")
		body = a.zipped
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

// matches reports whether the browser, or a proxy, has the file already. Those that
// compress make strong tags weak.
func matches(h http.Header, etag string) bool {
	for item := range listed(h["If-None-Match"]) {
		if item == "*" || strings.TrimPrefix(item, "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// takesGzip reports whether gzip is named and not refused (q=0).
func takesGzip(h http.Header) bool {
	for item := range listed(h["Accept-Encoding"]) {
		name, params, err := mime.ParseMediaType(item)
		if err != nil || name != "gzip" {
			continue
		}
		q, given := params["q"]
		weight, err := strconv.ParseFloat(q, 64)
		return !given || err == nil && weight > 0
	}
	return false
}

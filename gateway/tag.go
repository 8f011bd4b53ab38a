package gateway

import (
	_ "embed"
	"net/http"
	"sync"
)

// The tag is written in kith.js and served as kith.min.js.
//
//go:generate go run ../internal/tagbuild kith.js kith.min.js
//go:embed kith.min.js
var tagSource []byte

var tagAsset = sync.OnceValues(func() (asset, error) { return newAsset(assetTypes[".js"], tagSource) })

// script answers with the tag for publishers' pages.
func (g *Gateway) script(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=3600")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	g.tag.send(w, r)
	return nil
}

package demo

import (
	_ "embed"
	"html/template"
	"net/http"
	"slices"
	"strings"
)

//go:embed site.html
var siteHTML string

// pageData is what the template shows.
type pageData struct {
	Public, Client, Section string
	Sections                []string
	Articles                []int
}

// newSite serves a page for each section, and the tour. Anything else is not
// found.
func newSite(d *Demo) http.Handler {
	c := d.c
	page := template.Must(template.New("site").Parse(siteHTML))
	mux := http.NewServeMux()
	(&tours{demo: d, list: map[string]*phone{}}).register(mux)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		section, _, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
		if section == "" {
			section = "home"
		}
		if !slices.Contains(sections, section) {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		data := pageData{Public: c.Public, Client: c.Client, Section: section, Sections: sections, Articles: []int{1, 2, 3, 4}}
		if err := page.Execute(w, data); err != nil {
			c.Log.Debug("a reader of the demo site went away", "error", err)
		}
	})
	return mux
}

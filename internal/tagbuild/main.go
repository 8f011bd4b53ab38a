// Command tagbuild makes the tag that nodes serve from its source: it minifies
// gateway/kith.js into gateway/kith.min.js (make tag). The result is in the
// repository, so that building kith needs neither this program nor esbuild; its
// test says when the two no longer match.
//
// It bundles nothing and takes no module: the tag depends on nothing.
package main

import (
	"fmt"
	"os"

	"github.com/evanw/esbuild/pkg/api"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: tagbuild kith.js kith.min.js")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "tagbuild:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	source, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	small, err := minify(source)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.WriteFile(to, small, 0o644)
}

// banner is the first line of what is served, for whoever finds it in a page.
const banner = "/*kith.js*/"

// minify is the tag for browsers from 2018 on.
func minify(source []byte) ([]byte, error) {
	r := api.Transform(string(source), api.TransformOptions{
		Target:           api.ES2017,
		Charset:          api.CharsetASCII, // whatever the page's own is
		MinifyWhitespace: true, MinifyIdentifiers: true, MinifySyntax: true,
		LegalComments: api.LegalCommentsNone,
		Banner:        banner,
	})
	if wrong := append(r.Errors, r.Warnings...); len(wrong) > 0 {
		m := wrong[0]
		if m.Location == nil {
			return nil, fmt.Errorf("%s", m.Text)
		}
		return nil, fmt.Errorf("line %d, column %d: %s", m.Location.Line, m.Location.Column+1, m.Text)
	}
	return r.Code, nil
}

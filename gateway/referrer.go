package gateway

import (
	_ "embed"
	"net/url"
	"slices"
	"strings"

	"kith/proto"
)

// The lists are compact forms of Matomo's (CC0 1.0, see NOTICE). A line of search
// engines has, between tabs: name, parameters that hold the terms, paths that
// lead on without terms, hosts; in a host, {} is a country. The paths of engines
// that tell nothing but their origin today are ours.
//
//go:embed referrers/search_engines.tsv
var searchEngineList string

//go:embed referrers/social_networks.tsv
var socialNetworkList string

// Bounds of what is read and kept of searches.
const (
	searchTermsBytesMax = 256
	refQueryBytesMax    = 1024
)

// engine is one search engine, by some of its hosts.
type engine struct {
	name   string
	params []string // of a query, that hold the terms
	silent []string // beginnings of paths whose referrers have no terms; "*": all, "/": only that
}

// referrers knows search engines and social networks by their hosts. It is read
// only.
type referrers struct {
	engines  map[string]*engine // by host, or host and path, with {} for a country
	networks map[string]string  // by host
}

func newReferrers() (referrers, error) {
	x := referrers{map[string]*engine{}, map[string]string{}}
	for line := range strings.Lines(searchEngineList) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 4 {
			return x, proto.Errorf(proto.CodeInternal, "the list of search engines has a line of %d fields: %s", len(f), clip(line))
		}
		e := &engine{f[0], strings.Fields(f[1]), strings.Fields(f[2])}
		for _, host := range strings.Fields(f[3]) {
			if _, twice := x.engines[host]; !twice {
				x.engines[host] = e
			}
		}
	}
	for line := range strings.Lines(socialNetworkList) {
		name, hosts, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		for _, host := range strings.Fields(hosts) {
			x.networks[host] = name
		}
	}
	return x, nil
}

// search is the engine that a referrer is a search of, and the terms if it has
// them; empty if it is none. Many of these hosts have other pages too: it counts
// if there are terms, be it that they cannot be read, or where searches are known to
// hide them.
func (x *referrers) search(ref address) (name, terms string) {
	e := x.engineAt(ref)
	if e == nil {
		return "", ""
	}
	terms, asked := termsOf(ref.query, e.params)
	silent := e.silentAt(ref.path)
	if silent && isPageLink(terms) {
		terms = ""
	}
	if !asked && !silent {
		return "", ""
	}
	return e.name, terms
}

// silentAt reports whether the engine's pages at a path lead on without saying
// what was searched for.
func (e *engine) silentAt(path string) bool {
	return slices.ContainsFunc(e.silent, func(at string) bool {
		switch at {
		case "*":
			return true
		case "/":
			return path == "" || path == "/"
		}
		return strings.HasPrefix(path, at)
	})
}

// engineAt looks a host up: as it is, without its first label if that is usual,
// and with {} for its country.
func (x *referrers) engineAt(ref address) *engine {
	if e := x.engineOf(ref.host, ref.path); e != nil {
		return e
	}
	host := withoutUsual(ref.host)
	if e := x.engineOf(host, ref.path); e != nil {
		return e
	}
	var room [hostBytesMax + 8]byte
	for _, h := range [...]string{host, ref.host} {
		if wide, ok := anyTop(room[:0], h); ok {
			if e := x.engineOf(alias(wide), ref.path); e != nil {
				return e
			}
		}
		if len(h) > 3 && h[2] == '.' && letter(h[0]) && letter(h[1]) {
			if e := x.engineOf(alias(append(append(room[:0], "{}"...), h[2:]...)), ref.path); e != nil {
				return e
			}
		}
	}
	return nil
}

// engineOf finds the entry of a host, that of its path before that of the whole.
func (x *referrers) engineOf(host, path string) *engine {
	e := x.engines[host]
	if len(path) < 2 || len(path) > 32 {
		return e
	}
	var room [hostBytesMax + 48]byte
	if special := x.engines[alias(append(append(room[:0], host...), path...))]; special != nil {
		return special
	}
	return e
}

// withoutUsual takes www., www2. or m. off a host.
func withoutUsual(host string) string {
	label, rest, ok := strings.Cut(host, ".")
	if ok && strings.IndexByte(rest, '.') > 0 && (label == "m" || strings.HasPrefix(label, "www") && strings.Trim(label[3:], "0123456789") == "") {
		return rest
	}
	return host
}

// anyTop appends a host with {} for a country's top level, with what stands for
// companies before that.
func anyTop(b []byte, host string) (_ []byte, ok bool) {
	i := strings.LastIndexByte(host, '.')
	if i < 1 || len(host)-i != 3 {
		return b, false
	}
	name := host[:i]
	if j := strings.LastIndexByte(name, '.'); j > 0 {
		switch name[j+1:] {
		case "com", "co", "org", "net", "edu", "ne", "or":
			name = name[:j]
		}
	}
	return append(append(b, name...), ".{}"...), true
}

// network is the social network that a host belongs to, or one above it.
func (x *referrers) network(host string) string {
	for {
		if name := x.networks[host]; name != "" {
			return name
		}
		i := strings.IndexByte(host, '.')
		if i < 0 {
			return ""
		}
		host = host[i+1:]
	}
}

// termsOf are the search terms in a query, under the first of the parameters that
// has any: in lower case, with single blanks. asked says whether there was something,
// be it that it cannot be read.
func termsOf(query string, params []string) (terms string, asked bool) {
	for _, name := range params {
		raw := rawParameter(query, name)
		asked = asked || raw != ""
		if terms = plainTerms(raw); terms != "" {
			return terms, true
		}
	}
	return "", asked
}

// rawParameter is the first value of a name in a query, still escaped.
func rawParameter(query, name string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if key, value, ok := strings.Cut(pair, "="); ok && key == name {
			return value
		}
	}
	return ""
}

func plainTerms(raw string) string {
	if raw == "" {
		return ""
	}
	text, err := url.QueryUnescape(raw)
	if err != nil || !legible(text) { // other character sets than UTF-8 are not read
		return ""
	}
	text = strings.Join(strings.Fields(strings.ToLower(text)), " ")
	if len(text) > searchTermsBytesMax {
		return "" // a text, not terms; and half of one could hide what is personal
	}
	return text
}

// isPageLink reports whether terms are the address of a result, which Google's
// links to results carry where other pages of it carry terms.
func isPageLink(terms string) bool {
	return strings.HasPrefix(terms, "http://") || strings.HasPrefix(terms, "https://")
}

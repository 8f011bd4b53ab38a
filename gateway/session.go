package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"kith/proto"
)

// The properties that are derived of an event before it goes into the log.
// docs/session-data.md says what is in them.
const (
	propBrowser       = "browser"
	propOS            = "os"
	propDevice        = "device"
	propBot           = "bot"
	propSection       = "section"
	propRefHost       = "ref_host"
	propSearchEngine  = "search_engine"
	propSearchTerms   = "search_terms"
	propSocialNetwork = "social_network"
)

// Bounds of what is read and kept of addresses.
const (
	sectionBytesMax     = 128
	searchTermsBytesMax = 256
	refQueryBytesMax    = 1024
)

// homeSection is the section of a site's first page.
const homeSection = "home"

// sessions derives session data of events: who sent them, where from, and which
// part of a site they are about. It is safe for concurrent use.
type sessions struct {
	agents  agents
	places  referrers
	dropped map[proto.ClientName]bool // clients that want no robots; read only
}

func newSessions(dropped []proto.ClientName) (*sessions, error) {
	x := &sessions{dropped: map[proto.ClientName]bool{}}
	for _, name := range dropped {
		x.dropped[name] = true
	}
	var err error
	x.places, err = newReferrers()
	return x, err
}

// botPolicy is what becomes of robots' events.
type botPolicy uint8

const (
	botsAsClient botPolicy = iota // as the client's configuration has it
	botsKept
	botsDropped
)

// parseBotPolicy reads the parameter bots of POST /v1/events.
func parseBotPolicy(s string) (botPolicy, error) {
	switch s {
	case "":
		return botsAsClient, nil
	case "keep":
		return botsKept, nil
	case "drop":
		return botsDropped, nil
	}
	return 0, proto.Errorf(proto.CodeInvalid, "bots is %q: use keep or drop", clip(s))
}

// ofRequest is what the headers of a browser's or app's own request say of it.
func (x *sessions) ofRequest(h http.Header) agent {
	a := x.agents.read(firstOf(h["User-Agent"]))
	a.heedHints(firstOf(h["Sec-Ch-Ua"]), firstOf(h["Sec-Ch-Ua-Mobile"]), firstOf(h["Sec-Ch-Ua-Platform"]))
	return a
}

func firstOf(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[0]
}

// heedAgent notes who sent the draft, and refuses a robot where none are wanted.
func (p *post) heedAgent() {
	d := &p.draft
	if p.sessions == nil {
		return
	}
	d.agent = p.agent
	if !p.public && d.userAgent != "" {
		d.agent = p.sessions.agents.read(d.userAgent)
	}
	if p.bots == botsKept || p.bots == botsAsClient && !p.sessions.dropped[p.client.Name] {
		return
	}
	if d.robot() {
		d.refuse(proto.CodeBot, "the user agent is a robot's, and robots' events are dropped here")
	}
}

// robot reports whether the draft is a robot's: what it says itself comes first.
func (d *draft) robot() bool {
	if said, ok := d.event.Prop(propBot); ok {
		return said.Kind == proto.TrueValue || said.Kind == proto.TextValue && (said.Text == "true" || said.Text == "1")
	}
	return d.agent.bot
}

// derive adds the session data to a draft. It comes before personal data is
// looked for, and is looked through itself.
func (x *sessions) derive(d *draft) {
	a := &d.agent
	d.deriveText(propBrowser, a.browser)
	d.deriveText(propOS, a.os)
	d.deriveText(propDevice, a.device)
	if a.bot {
		d.deriveProp(propBot, proto.FlagOf(true))
	}
	d.deriveText(propSection, sectionOf(d.event.URL))
	x.deriveReferrer(d)
}

func (d *draft) deriveText(key, text string) {
	if text != "" {
		d.deriveProp(key, proto.TextOf(text))
	}
}

// deriveProp adds a property, unless the event has one of that name or no room.
func (d *draft) deriveProp(key string, v proto.Value) {
	if _, said := d.event.Prop(key); !said && len(d.event.Props) < proto.EventPropsMax {
		d.event.Props = append(d.event.Props, proto.Prop{Key: key, Value: v})
	}
}

// deriveReferrer adds what the referrer says. That of a search loses its query,
// which holds more than the terms.
func (x *sessions) deriveReferrer(d *draft) {
	ref := splitAddress(d.event.Ref)
	if ref.host == "" {
		return
	}
	d.deriveText(propRefHost, ref.host)
	if ref.query == "" {
		ref.query = d.refQuery
	}
	engine, terms := x.places.search(ref)
	if engine == "" {
		d.deriveText(propSocialNetwork, x.places.network(ref.host))
		return
	}
	d.deriveText(propSearchEngine, engine)
	if i := strings.IndexAny(d.event.Ref, "?#"); i >= 0 {
		d.event.Ref = d.event.Ref[:i]
	}
	if kind := findPersonal(terms); kind != noPersonal {
		d.found, d.cut = kind, true
		return
	}
	d.deriveText(propSearchTerms, terms)
}

// address is a url in parts; host is in lower case, without user and port.
type address struct{ host, path, query string }

// splitAddress reads a url, or one that begins with its path. What is neither has
// no parts.
func splitAddress(s string) (a address) {
	rest := s
	if scheme, after, ok := strings.Cut(s, "://"); ok && isScheme(scheme) {
		end := strings.IndexAny(after, "/?#")
		if end < 0 {
			end = len(after)
		}
		if a.host = hostOf(after[:end]); a.host == "" {
			return address{}
		}
		rest = after[end:]
	} else if !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") {
		return address{}
	}
	rest, _, _ = strings.Cut(rest, "#")
	a.path, a.query, _ = strings.Cut(rest, "?")
	return a
}

func isScheme(s string) bool {
	for i := range len(s) {
		if c := s[i]; !letter(c) && !digit(c) && c != '-' && c != '+' && c != '.' {
			return false
		}
	}
	return s != ""
}

// hostOf is the host of the part of a url between scheme and path, empty if it is
// none.
func hostOf(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		s = s[i+1:]
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.Trim(s[i+1:], "0123456789") == "" {
		s = s[:i]
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if len(s) > hostBytesMax {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; !letter(c) && !digit(c) && c < 0x80 && !strings.ContainsRune("-._[]:", rune(c)) {
			return ""
		}
	}
	return s
}

// hostBytesMax is how long a host's name may be.
const hostBytesMax = 253

// sectionOf is the first part of a url's path, "home" if there is none; empty if
// it is no url or the part is no section's name.
func sectionOf(raw string) string {
	a := splitAddress(raw)
	if a.host == "" && a.path == "" {
		return ""
	}
	section, _, _ := strings.Cut(strings.TrimLeft(a.path, "/"), "/")
	if strings.IndexByte(section, '%') >= 0 {
		if plain, err := url.PathUnescape(section); err == nil && legible(plain) {
			section = plain
		}
	}
	switch {
	case section == "":
		return homeSection
	case len(section) > sectionBytesMax:
		return ""
	}
	return section
}

// termsOf are the search terms in a query, under the first of the parameters that
// has any: in lower case, with single blanks.
func termsOf(query string, params []string) string {
	for _, name := range params {
		if terms := plainTerms(rawParameter(query, name)); terms != "" {
			return terms
		}
	}
	return ""
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

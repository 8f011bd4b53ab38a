package gateway

import (
	"net/http"
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
	if _, said := d.event.Prop(propSection); !said {
		if section := sectionOf(d.event.URL); findPersonal(section) == noPersonal {
			d.deriveText(propSection, section)
		}
	}
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

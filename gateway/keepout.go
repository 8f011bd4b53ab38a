package gateway

import (
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"kith/proto"
)

// This file keeps out what must not be stored of people, beside personal data:
// properties that a client does not list, and what names a sensitive category. A
// property is left out of its event; a trait, an event's name, and segments and
// audiences are refused.

// keptOutThing is what something was that was kept out.
type keptOutThing uint8

const (
	keptProperty keptOutThing = iota // left out of an event that was taken
	keptTrait                        // refused, as are
	keptEvent
	keptSegment
	keptAudience
	keptOutThings
)

var keptOutLabels = [keptOutThings]string{"property", "trait", "event", "segment", "audience"}

// notAllowed is the reason of properties that the client does not list, behind the
// kinds.
const (
	notAllowed     = int(sensitiveKinds)
	keptOutReasons = notAllowed + 1
)

// keptOut counts what was kept out.
type keptOut [keptOutThings][keptOutReasons]int

// keepOut is what holds for one client. It is not changed.
type keepOut struct {
	judge   *judge              // nil: nothing is sensitive
	allowed map[string]struct{} // names of properties; nil: all
}

// keepOuts are those of all clients.
type keepOuts struct {
	others *keepOut
	of     map[proto.ClientName]*keepOut
}

func newKeepOuts(c Config) (x keepOuts, err error) {
	x.of = map[proto.ClientName]*keepOut{}
	j, err := newJudge(Sensitive{})
	if err != nil {
		return x, err
	}
	x.others = &keepOut{judge: j}
	for name, s := range c.Sensitive {
		if j, err = newJudge(s); err != nil {
			return x, proto.Errorf(proto.CodeInvalid, "what is sensitive for client %q: %s", name, messageOf(err))
		}
		x.of[name] = &keepOut{judge: j}
	}
	for name, list := range c.PropertiesAllowed {
		if list == nil {
			continue
		}
		k := keepOut{judge: x.client(name).judge, allowed: map[string]struct{}{}}
		for _, p := range list {
			k.allowed[p] = struct{}{}
		}
		x.of[name] = &k
	}
	return x, nil
}

func (x *keepOuts) client(name proto.ClientName) *keepOut {
	if k, ok := x.of[name]; ok {
		return k
	}
	return x.others
}

// ownProperty reports whether kith itself gives its events a property.
func ownProperty(event, name string) bool {
	switch event {
	case "match":
		return name == "partner"
	case "kith.hosts":
		return name == "hosts" || name == "left"
	case "kith.leave":
		return name == "time_on_page"
	}
	return false
}

// leaveOut takes out of p's draft what its client's events may not hold.
func (p *post) leaveOut() {
	k := p.rules.client(p.client.Name)
	d := &p.draft
	if k.judge != nil {
		p.words = appendWords(p.words[:0], d.event.Name)
		if kind := k.judge.find(p.words, inName|inLabel, false); kind != notSensitive {
			p.kept[keptEvent][kind]++
			d.refuse(proto.CodeSensitive, sensitiveEvents[kind])
			return
		}
	}
	d.event.Props = slices.DeleteFunc(d.event.Props, func(x proto.Prop) bool {
		reason := k.against(p, d.event.Name, x)
		if reason == 0 {
			return false
		}
		p.kept[keptProperty][reason]++
		p.dropped++
		return true
	})
}

// derive adds session data to p's draft, without what its client's events may not
// hold: its own list is of what it sends, and of that.
func (p *post) derive() {
	d := &p.draft
	sent := len(d.event.Props)
	p.sessions.derive(d)
	if p.rules == nil {
		return
	}
	k := p.rules.client(p.client.Name)
	derived := slices.DeleteFunc(d.event.Props[sent:], func(x proto.Prop) bool {
		reason := k.against(p, d.event.Name, x)
		if reason != 0 && reason != notAllowed {
			p.kept[keptProperty][reason]++
		}
		return reason != 0
	})
	d.event.Props = d.event.Props[:sent+len(derived)]
}

// against is why a property is left out of an event, 0 if it is not.
func (k *keepOut) against(p *post, event string, x proto.Prop) (reason int) {
	if ownProperty(event, x.Key) {
		return 0
	}
	if _, ok := k.allowed[x.Key]; k.allowed != nil && !ok {
		return notAllowed
	}
	if k.judge == nil {
		return 0
	}
	kind, words := k.judge.prop(p.words, x.Key, x.Value, false)
	p.words = words
	return int(kind)
}

// sensitiveEvents are the messages of refused events, by kind.
var sensitiveEvents = func() (t [sensitiveKinds]string) {
	for kind := notSensitive + 1; kind < sensitiveKinds; kind++ {
		t[kind] = "the event's name " + kind.reason() + ": give it another one. " + sensitiveAdvice
	}
	return t
}()

const sensitiveAdvice = "What a client may do all the same is in clients[].sensitive of kith.yaml"

// reason is what a text does that is of the kind.
func (k sensitiveKind) reason() string {
	if k == sensitiveOwn {
		return "is on the client's own list of sensitive terms"
	}
	return "names a sensitive category (" + k.String() + ")"
}

// refuseTraits refuses traits that name a sensitive category, but for those that
// are taken away.
func (p *post) refuseTraits(set []proto.Prop) error {
	j := p.rules.client(p.client.Name).judge
	for i := range set {
		if j == nil || set[i].Value == proto.TextOf("") {
			continue
		}
		var kind sensitiveKind
		if kind, p.words = j.prop(p.words, set[i].Key, set[i].Value, true); kind != notSensitive {
			p.kept[keptTrait][kind]++
			return proto.Errorf(proto.CodeSensitive, "trait %q %s: leave it out. %s", clip(set[i].Key), kind.reason(), sensitiveAdvice)
		}
	}
	return nil
}

// refuseLabel refuses the id of a segment or audience that names a sensitive
// category.
func (g *Gateway) refuseLabel(client proto.ClientInfo, what keptOutThing, id string) error {
	kind := g.rules.client(client.Name).judge.label(id)
	if kind == notSensitive {
		return nil
	}
	g.metrics.kept[what][kind].Inc()
	return proto.Errorf(proto.CodeSensitive, "the %s's id %q %s: choose another one. %s", keptOutLabels[what], clip(id), kind.reason(), sensitiveAdvice)
}

// refuseRule refuses a segment whose rule looks at something sensitive. A rule that
// does not parse is left to whoever defines it.
func (g *Gateway) refuseRule(client proto.ClientInfo, s proto.SegmentSpec) error {
	if err := g.refuseLabel(client, keptSegment, string(s.ID)); err != nil {
		return err
	}
	j := g.rules.client(client.Name).judge
	if j == nil || g.deps.Rules == nil {
		return nil
	}
	list, err := g.deps.Rules.RuleMentions(s.When)
	if err != nil {
		return nil
	}
	for i := range list {
		if kind, what := j.mention(&list[i]); kind != notSensitive {
			g.metrics.kept[keptSegment][kind].Inc()
			return proto.Errorf(proto.CodeSensitive, "the rule of segment %q looks at %s, which %s: a segment must not be made of it. %s", s.ID, clip(what), kind.reason(), sensitiveAdvice)
		}
	}
	return nil
}

// mention judges what a rule looks at; what is how the rule has it. All texts are
// labels: whoever compares with one wants those whom it says something of.
func (j *judge) mention(m *proto.RuleMention) (kind sensitiveKind, what string) {
	if m.Member != "" {
		return j.label(string(m.Member)), m.Text
	}
	x, _ := j.name(nil, m.Name)
	if x.kind != notSensitive {
		return x.kind, m.Text
	}
	for _, v := range m.Values {
		if kind, _ = j.value(nil, x, v, true); kind != notSensitive {
			return kind, m.Text + " with " + quotedValue(v)
		}
	}
	return notSensitive, ""
}

func quotedValue(v proto.Value) string {
	if v.Kind == proto.NumberValue {
		return strconv.FormatFloat(v.Number, 'f', -1, 64)
	}
	return strconv.Quote(v.Text)
}

// countKeptOut makes the counters of what is kept out.
func (m *metrics) countKeptOut(register func(prometheus.Collector)) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kith_gateway_kept_out_total",
		Help: "What was kept out, by reason (a sensitive category, own: of a client's list, not_allowed) and what it was: properties left out of events, and traits, events, segments and audiences refused.",
	}, []string{"reason", "what"})
	register(v)
	for what := range keptOutThings {
		for kind := notSensitive + 1; kind < sensitiveKinds; kind++ {
			m.kept[what][kind] = v.WithLabelValues(kind.String(), keptOutLabels[what])
		}
	}
	m.kept[keptProperty][notAllowed] = v.WithLabelValues("not_allowed", keptOutLabels[keptProperty])
}

// countKept counts what was kept out of a body.
func (m *metrics) countKept(p *post) {
	if p.kept == (keptOut{}) { // as of most
		return
	}
	for what := range p.kept {
		for reason, n := range p.kept[what] {
			if n > 0 {
				m.kept[what][reason].Add(float64(n))
			}
		}
	}
}

package gateway

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"kith/proto"
)

// refusal is why one event of a body was not taken.
type refusal struct {
	index   int
	code    proto.Code
	message string
}

// draft is an event under construction. Its setters check the rules of
// docs/api.md; the first that fails makes the refusal.
type draft struct {
	event proto.Event
	time  proto.Millis
	timed bool
	proof string
	lmt   bool
	// userAgent and refQuery, the query of the referrer, are read and never stored;
	// agent is what the first, or the request, says.
	userAgent, refQuery string
	agent               agent
	code                proto.Code // empty: nothing wrong so far
	why                 string
	// found is the personal data that the event held, and cut whether that was in a
	// url, which was cut for it.
	found personalKind
	cut   bool
}

func (d *draft) reset() {
	ids, props := d.event.Identities[:0], d.event.Props[:0]
	*d = draft{}
	d.event.Identities, d.event.Props = ids, props
}

func (d *draft) refuse(code proto.Code, why string) {
	if d.code == "" {
		d.code, d.why = code, why
	}
}

func (d *draft) setName(s string) {
	d.event.Name = s
	if s == "" || len(s) > proto.EventNameBytesMax {
		d.refuse(proto.CodeEvent, "the event's name must have 1 to 128 bytes")
	}
}

func (d *draft) setID(s string) {
	d.event.ID = s
	if len(s) > proto.EventIDBytesMax {
		d.refuse(proto.CodeEvent, "the event's id is over 128 bytes")
	}
}

func (d *draft) setURL(s string) {
	d.event.URL = s
	if len(s) > proto.EventURLBytesMax {
		d.refuse(proto.CodeEvent, "the url is over 2048 bytes: cut its query off")
	}
}

func (d *draft) setRef(s string) {
	d.event.Ref = s
	if len(s) > proto.EventURLBytesMax {
		d.refuse(proto.CodeEvent, "the ref is over 2048 bytes: cut its query off")
	}
}

// setRefQuery takes the part of a referrer's query that may hold search terms,
// from those who send the referrer without one.
func (d *draft) setRefQuery(s string) {
	if len(s) <= refQueryBytesMax {
		d.refQuery = strings.TrimLeft(s, "?&")
	}
}

func (d *draft) setTime(s string) {
	t, ok := parseTimestamp(s)
	if !ok {
		d.refuse(proto.CodeTime, "the time is not RFC 3339, such as 2026-11-22T12:00:00Z")
	}
	d.time, d.timed = t, true
}

// addIdentity takes an identity. One that is there already is left out.
func (d *draft) addIdentity(s string) {
	if err := checkIdentity(s); err != nil {
		d.refuse(proto.CodeIdentity, messageOf(err))
		return
	}
	if placeholder(s) {
		d.refuse(proto.CodeIdentity, placeholderText)
		return
	}
	for _, have := range d.event.Identities {
		if string(have) == s {
			return
		}
	}
	if len(d.event.Identities) == proto.EventIdentitiesMax {
		d.refuse(proto.CodeIdentity, "an event has at most 8 identities")
		return
	}
	d.event.Identities = append(d.event.Identities, proto.Identity(s))
}

// placeholder reports whether an identity has what stands for nobody's value.
func placeholder(id string) bool { return proto.Placeholder(proto.Identity(id).Value()) }

const placeholderText = "an identity's value is a macro that was not filled in, zeros, or the hash of an empty text: leave the identity out where there is no value"

// leaveDevice leaves out the ids of a device that limits ad tracking.
func (d *draft) leaveDevice() {
	before := len(d.event.Identities)
	d.event.Identities = slices.DeleteFunc(d.event.Identities, func(id proto.Identity) bool {
		kind := id.Kind()
		return kind == "aaid" || kind == "idfa"
	})
	if before > 0 && len(d.event.Identities) == 0 {
		d.refuse(proto.CodeOptedOut, "nothing is stored: the device limits ad tracking")
	}
}

// checkIdentity is the error of proto.ParseIdentity.
func checkIdentity(s string) error {
	if plainIdentity(s) {
		return nil
	}
	_, err := proto.ParseIdentity(s)
	return err
}

// plainIdentity reports whether s surely is an identity: a common kind, then
// letters, digits, - and _, with a digit above 0 and a letter so that no junk
// value is among them. proto.ParseIdentity decides about all others.
func plainIdentity(s string) bool {
	kind, value, ok := strings.Cut(s, ":")
	if !ok || kind != "browser" && kind != "account" && kind != "aaid" && kind != "idfa" && kind != "stat" {
		return false
	}
	if len(value) > 256 {
		return false
	}
	digit, letter := false, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c|0x20 >= 'a' && c|0x20 <= 'z':
			letter = true
		case c >= '1' && c <= '9':
			digit = true
		case c != '0' && c != '-' && c != '_':
			return false
		}
	}
	return digit && letter
}

// addProp takes a property.
func (d *draft) addProp(key string, v proto.Value) {
	props := d.event.Props
	switch {
	case key == "" || len(key) > proto.PropKeyBytesMax:
		d.refuse(proto.CodeEvent, "a property's name must have 1 to 64 bytes")
	case v.Kind == proto.TextValue && len(v.Text) > proto.PropTextBytesMax:
		d.refuse(proto.CodeEvent, "a property's text is over 1024 bytes")
	case v.Kind == proto.NumberValue && (math.IsInf(v.Number, 0) || math.IsNaN(v.Number)):
		d.refuse(proto.CodeEvent, "a property's number does not fit in 64 bits")
	case len(props) == proto.EventPropsMax:
		d.refuse(proto.CodeEvent, "an event has at most 64 properties")
	default:
		for i := range props {
			if props[i].Key == key {
				d.refuse(proto.CodeEvent, "a property is there twice")
				return
			}
		}
		v.Number += 0 // no minus zero, whose text is another
		d.event.Props = append(props, proto.Prop{Key: key, Value: v})
	}
}

// ages are how far from now an event's time may lie.
type ages struct{ back, ahead time.Duration }

// finish checks what needs the whole event and stamps it.
func (d *draft) finish(now proto.Millis, a ages) {
	e := &d.event
	if e.Name == "" {
		d.refuse(proto.CodeEvent, `the event has no name: send {"event":"page"}`)
	}
	e.Received, e.Time = now, now
	if d.timed && d.code == "" {
		e.Time = d.time
		if d.time < now.Add(-a.back) || d.time > now.Add(a.ahead) {
			d.refuse(proto.CodeTime, fmt.Sprintf("the time lies more than %s back or %s ahead: check the clock, or load history with kith ingest --shift", spell(a.back), spell(a.ahead)))
		}
	}
	if d.code == "" {
		d.checkPersonal()
	}
}

// checkPersonal refuses an event that holds personal data. A url or referrer with
// a token, session or address in it loses what comes after its path instead.
func (d *draft) checkPersonal() {
	e := &d.event
	url, ref := d.cutSecret(&e.URL), d.cutSecret(&e.Ref)
	d.check(findPersonal(e.Name))
	d.check(findPersonal(e.ID))
	d.check(url)
	d.check(ref)
	for _, id := range e.Identities {
		d.check(findPersonal(string(id)))
	}
	for i := range e.Props {
		d.checkProp(&e.Props[i])
	}
}

func (d *draft) checkProp(p *proto.Prop) {
	d.check(findPersonal(p.Key))
	text := p.Value.Text
	if n := p.Value.Number; p.Value.Kind == proto.NumberValue && n >= 1e3 && n < 1e19 && n == math.Trunc(n) { // of less a name says nothing
		var b [20]byte
		text = alias(strconv.AppendFloat(b[:0], n, 'f', -1, 64))
	}
	d.check(findPersonal(text))
	if kind := namedPersonal(p.Key, text); kind != noPersonal && !secretInURLs(p.Key) {
		d.check(kind)
	}
	if inner := innerName(p.Key); inner != "" && !secretInURLs(inner) {
		d.check(innerPersonal(inner, text))
	}
}

func (d *draft) check(kind personalKind) {
	if kind != noPersonal && d.code == "" {
		d.found, d.cut = kind, false
		d.refuse(proto.CodePII, personalRefusals[kind])
	}
}

// personalRefusals are the messages of refused events, by kind.
var personalRefusals = func() (t [personalKinds]string) {
	for i, what := range personalNames {
		t[i] = "the event holds " + what + ": send a keyed hash as account: instead, and keep it out of urls and properties"
	}
	return t
}()

// cutSecret cuts a url behind its path if a secret or an address is in it, and says
// what it holds then.
func (d *draft) cutSecret(url *string) personalKind {
	kind := findPersonal(*url)
	if kind != personalSecret && kind != personalAddress {
		return kind
	}
	i := strings.IndexAny(*url, "?#;")
	if i < 0 {
		return kind
	}
	*url = (*url)[:i]
	d.found, d.cut = kind, true
	return findPersonal(*url)
}

// spell writes a duration in days where that is exact.
func spell(d time.Duration) string {
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

package gateway

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	gproto "google.golang.org/protobuf/proto"

	"kith/proto"
	"kith/proto/pb"
)

// post is one body of events in work: what was read of it, the batch that it
// becomes, and what was refused. It is reused.
type post struct {
	scan    scanner
	draft   draft
	batch   proto.Batch
	indexes []int // of the batch's commands in the body
	free    []int // of those that only take something back, in the batch: they use no allowance
	refused []refusal
	body    []byte
	answer  []byte
	words   []byte
	task
}

// task is what of a post is new for each body.
type task struct {
	events int
	left   int    // blocked identities, left out of events
	robots int    // events taken that robots sent
	signal string // of a public request: why nothing of it is kept
	fresh  bool   // of a public request: its browser is new
	// personal counts events by kind of personal data: [0] refused, [1] their url cut.
	personal [2][personalKinds]int
	kept     keptOut
	dropped  int // properties that were left out

	// Set for each body, before it is parsed.
	client  proto.ClientInfo // known beforehand from a key or path, or from name
	known   bool             // client is set
	resolve func(name string) (proto.ClientInfo, error)
	admit   func(*draft) // nil: the plane takes identities as they are
	hasher  proto.Hasher
	now     proto.Millis
	ages    ages
	max     int
	public  bool      // agent is the request's; events do not say who sent them
	agent   agent     // of a public request
	visitor admission // of a public request
	bots    botPolicy // of this body
	// sessions derives session data, nil for none.
	sessions *sessions
	blocked  map[proto.Identity]struct{} // never a part of anybody
	rules    *keepOuts                   // nil: nothing is kept out
}

func (p *post) reset() {
	p.batch.Reset()
	p.draft.reset()
	p.indexes, p.free, p.refused = p.indexes[:0], p.free[:0], p.refused[:0]
	p.body, p.answer, p.words = p.body[:0], p.answer[:0], p.words[:0]
	p.task = task{}
}

// parseJSON reads {"client":…,"events":[…]}. Nothing of a body that fails as
// a whole may be submitted. Where the client comes after the events, they are
// skipped at first and read once it is known.
func (p *post) parseJSON(body []byte) error {
	s := &p.scan
	s.reset(body)
	named, listed, later := false, false, -1
	if !s.open('{') {
		return s.err
	}
	for first := true; s.more(&first, '}'); {
		key, ok := s.key()
		if !ok {
			break
		}
		switch {
		case key == "client" && named, key == "events" && listed:
			s.fail(`"client" and "events" may be there once`)
		case key == "client":
			named = true
			if err := p.parseClient(); err != nil {
				return err
			}
		case key == "events":
			listed = true
			if !p.known {
				later = s.i
				s.skip()
				break
			}
			if err := p.parseEvents(); err != nil {
				return err
			}
		default:
			s.skip()
		}
	}
	switch {
	case !s.end():
		return s.err
	case !p.known:
		return proto.Errorf(proto.CodeClient, `the body names no client: send {"client":"NAME","events":[…]}`)
	case !listed:
		return proto.Errorf(proto.CodeJSON, `the body has no events: send {"client":"NAME","events":[…]}`)
	case later >= 0:
		s.i = later
		return p.parseEvents()
	}
	return nil
}

func (p *post) parseClient() error {
	s := &p.scan
	switch s.peek() {
	case '"':
	case 'n': // null is as if it were not there
		if !s.literal("null") {
			return s.err
		}
		return nil
	default:
		s.fail("the client's name must be a string")
		return s.err
	}
	name, ok := s.str()
	if !ok {
		return s.err
	}
	return p.nameClient(name)
}

// nameClient takes the client that a body names.
func (p *post) nameClient(name string) error {
	if p.known && name == string(p.client.Name) {
		return nil
	}
	client, err := p.resolve(name)
	if err != nil {
		return err
	}
	p.client, p.known = client, true
	return nil
}

func (p *post) parseEvents() error {
	s := &p.scan
	if s.peek() != '[' {
		s.fail("events must be an array")
		return s.err
	}
	s.i++
	for first := true; s.more(&first, ']'); {
		if p.events == p.max {
			return p.tooMany()
		}
		if !p.parseEvent() {
			return s.err
		}
		p.take()
	}
	if s.err != nil {
		return s.err
	}
	return nil
}

func (p *post) tooMany() error {
	return proto.Errorf(proto.CodeTooLarge, "the body has more than %d events: send several", p.max)
}

// parseEvent reads one event into the draft. False means broken JSON.
func (p *post) parseEvent() bool {
	s, d := &p.scan, &p.draft
	d.reset()
	s.text, s.odd, s.escaped = s.text[:0], false, false
	if s.peek() != '{' {
		d.refuse(proto.CodeEvent, "an event must be an object")
		return s.skip()
	}
	s.i++
	var seen uint
	for first := true; s.more(&first, '}'); {
		key, ok := s.key()
		if !ok {
			return false
		}
		bit, ok := p.parseField(key)
		if !ok {
			return false
		}
		if seen&bit != 0 {
			d.refuse(proto.CodeEvent, "a field of the event is there twice")
		}
		seen |= bit
	}
	if s.err != nil {
		return false
	}
	if s.odd {
		d.refuse(proto.CodeEvent, "a text holds control characters or invalid UTF-8: clean it")
	}
	return true
}

// parseField reads the value of an event's field; bit tells fields apart.
func (p *post) parseField(key string) (bit uint, ok bool) {
	d := &p.draft
	switch key {
	case "event":
		return 1, p.parseText(key, proto.CodeEvent, (*draft).setName)
	case "time":
		return 2, p.parseText(key, proto.CodeTime, (*draft).setTime)
	case "id":
		return 4, p.parseText(key, proto.CodeEvent, (*draft).setID)
	case "identities":
		return 8, p.parseIdentities()
	case "props":
		return 16, p.parseProps(d.addProp)
	case "url":
		return 32, p.parseText(key, proto.CodeEvent, (*draft).setURL)
	case "ref":
		return 64, p.parseText(key, proto.CodeEvent, (*draft).setRef)
	case "proof":
		return 128, p.parseText(key, proto.CodeUnproven, (*draft).setProof)
	case "lmt":
		return 256, p.parseLimit()
	}
	odd := p.scan.odd
	switch key {
	case "user_agent":
		bit, ok = 512, p.parseText(key, proto.CodeEvent, (*draft).setUserAgent)
	case "ref_query":
		bit, ok = 1024, p.parseText(key, proto.CodeEvent, (*draft).setRefQuery)
	default:
		ok = p.scan.skip()
	}
	p.scan.odd = odd // what is not kept need not be clean
	return bit, ok
}

func (d *draft) setProof(s string) { d.proof = s }

func (d *draft) setUserAgent(s string) { d.userAgent = s }

// parseText reads the string of an event's field for set; null is as if the field
// were not there.
func (p *post) parseText(key string, code proto.Code, set func(*draft, string)) bool {
	s := &p.scan
	switch s.peek() {
	case '"':
		v, ok := s.str()
		if ok {
			set(&p.draft, v)
		}
		return ok
	case 'n':
		return s.literal("null")
	}
	p.draft.refuse(code, "the field "+key+" is not a string: send it in quotes")
	return s.skip()
}

// parseLimit reads lmt: true, or 1 as OpenRTB writes it.
func (p *post) parseLimit() bool {
	s := &p.scan
	c := s.peek()
	from := s.i
	if !s.skip() {
		return false
	}
	v := string(s.b[from:s.i])
	if v != "false" && v != "0" && c != 'n' {
		p.draft.lmt = true
	}
	return true
}

func (p *post) parseIdentities() bool {
	s, d := &p.scan, &p.draft
	switch s.peek() {
	case 'n':
		return s.literal("null")
	case '[':
		s.i++
	default:
		d.refuse(proto.CodeIdentity, "identities must be an array of strings")
		return s.skip()
	}
	for first := true; s.more(&first, ']'); {
		if s.peek() != '"' {
			d.refuse(proto.CodeIdentity, "identities must be an array of strings")
			if !s.skip() {
				return false
			}
			continue
		}
		odd := s.odd
		s.odd = false
		v, ok := s.str()
		if !ok {
			return false
		}
		if p.admit != nil && strings.HasPrefix(v, "browser:") {
			v, s.odd = ownBrowser, false
		}
		if s.odd {
			d.refuse(proto.CodeIdentity, "an identity holds control characters or invalid UTF-8")
		} else {
			d.addIdentity(v)
		}
		s.odd = s.odd || odd
	}
	return s.err == nil
}

// parseProps reads an object of scalars for add. null leaves a property out.
func (p *post) parseProps(add func(string, proto.Value)) bool {
	s, d := &p.scan, &p.draft
	switch s.peek() {
	case 'n':
		return s.literal("null")
	case '{':
		s.i++
	default:
		d.refuse(proto.CodeEvent, "props must be an object")
		return s.skip()
	}
	for first := true; s.more(&first, '}'); {
		key, ok := s.key()
		if !ok {
			return false
		}
		v, kind, ok := s.value()
		if !ok {
			return false
		}
		switch kind {
		case scalarValue:
			add(key, v)
		case nestedValue:
			d.refuse(proto.CodeEvent, "a property must be a string, a number, true, false or null")
		}
	}
	return s.err == nil
}

// The kinds of values where only scalars are wanted.
const (
	scalarValue = iota
	nullValue
	nestedValue // skipped
)

// value reads a property's value.
func (s *scanner) value() (v proto.Value, kind int, ok bool) {
	switch c := s.peek(); c {
	case '"':
		text, ok := s.str()
		return proto.TextOf(text), scalarValue, ok
	case 't':
		return proto.FlagOf(true), scalarValue, s.literal("true")
	case 'f':
		return proto.FlagOf(false), scalarValue, s.literal("false")
	case 'n':
		return v, nullValue, s.literal("null")
	case '{', '[':
		return v, nestedValue, s.skip()
	}
	f, ok := s.number()
	return proto.NumberOf(f), scalarValue, ok
}

// take puts the draft into the batch, or among the refused.
func (p *post) take() {
	d, index := &p.draft, p.events
	p.events++
	p.heedAgent()
	switch {
	case d.code != "":
	case p.admit != nil:
		p.admit(d)
	case d.lmt:
		d.leaveDevice()
	}
	if d.code == "" && len(d.event.Identities) == 0 {
		d.refuse(proto.CodeIdentity, "the event has no identity")
	}
	if d.code == "" {
		d.checkMade()
	}
	if d.code == "" && len(p.blocked) > 0 {
		p.leaveBlocked()
	}
	if d.code == "" && p.rules != nil {
		p.leaveOut()
	}
	if d.code == "" && p.sessions != nil {
		p.derive()
	}
	d.finish(p.now, p.ages)
	p.countPersonal(d)
	if d.code != "" {
		p.refused = append(p.refused, refusal{index, d.code, d.why})
		return
	}
	if d.robot() {
		p.robots++
	}
	d.event.Client, d.event.Space = p.client.ID, p.client.Space
	p.batch.AddEvent(p.hasher, &d.event)
	p.indexes = append(p.indexes, index)
	if p.public {
		p.visitor.took()
	}
}

// checkMade refuses an event that would join a statistical id with another identity, or
// store something of one that stands for an opt-out.
func (d *draft) checkMade() {
	for _, id := range d.event.Identities {
		if _, rotates := proto.Rotates(id); proto.Made(id) && (!rotates || len(d.event.Identities) > 1) {
			d.refuse(proto.CodeIdentity, "a statistical id that kith made is nobody's: send its events without other identities")
			return
		}
	}
}

// countPersonal notes what personal data the draft held.
func (p *post) countPersonal(d *draft) {
	switch {
	case d.found == noPersonal:
	case d.cut:
		p.personal[1][d.found]++
	default:
		p.personal[0][d.found]++
	}
}

// leaveBlocked leaves the identities out of the draft that are on the block
// list. An event of such an identity itself is nobody's.
func (p *post) leaveBlocked() {
	d := &p.draft
	if _, ok := p.blocked[d.event.Identities[0]]; ok {
		d.refuse(proto.CodeIdentity, "the event's first identity is on the block list: many people share it; name another first")
		return
	}
	before := len(d.event.Identities)
	d.event.Identities = slices.DeleteFunc(d.event.Identities, func(id proto.Identity) bool {
		_, ok := p.blocked[id]
		return ok
	})
	p.left += before - len(d.event.Identities)
}

// Fields of the messages that are counted before they are made.
const (
	requestClientField   = 1
	requestEventsField   = 2
	eventIdentitiesField = 4
	eventPropsField      = 5
)

// parseProtobuf reads an encoded pb.EventsRequest. Its events are made one by one.
func (p *post) parseProtobuf(body []byte) error {
	const message = "EventsRequest"
	client, events := "", 0
	err := eachPart(message, body, func(num protowire.Number, part []byte) error {
		switch {
		case num == requestClientField && !utf8.Valid(part):
			return notProtobuf(message, errNoUTF8)
		case num == requestClientField:
			client = string(part)
		case num == requestEventsField && events == p.max:
			return p.tooMany()
		case num == requestEventsField:
			events++
		}
		return nil
	})
	if err == nil && (client != "" || !p.known) {
		err = p.nameClient(client)
	}
	if err != nil {
		return err
	}
	var e pb.Event
	return eachPart(message, body, func(num protowire.Number, part []byte) error {
		if num != requestEventsField {
			return nil
		}
		p.draft.reset()
		if err := p.draft.countProtobuf(message, part); err != nil {
			return err
		}
		if p.draft.code == "" {
			if err := (gproto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(part, &e); err != nil {
				return notProtobuf(message, err)
			}
			p.draft.fromProtobuf(&e)
		}
		p.take()
		return nil
	})
}

// countProtobuf refuses an encoded event that names more than one may have. An identity
// that is there again is left out, so more of them may be sent.
func (d *draft) countProtobuf(message string, event []byte) error {
	identities, props := 0, 0
	err := eachPart(message, event, func(num protowire.Number, _ []byte) error {
		switch num {
		case eventIdentitiesField:
			identities++
		case eventPropsField:
			props++
		}
		return nil
	})
	if identities > 8*proto.EventIdentitiesMax {
		d.refuse(proto.CodeIdentity, "an event has at most 8 identities")
	}
	if props > proto.EventPropsMax {
		d.refuse(proto.CodeEvent, fmt.Sprintf("an event has at most %d properties", proto.EventPropsMax))
	}
	return err
}

func (d *draft) fromProtobuf(e *pb.Event) {
	d.setName(e.GetEvent())
	d.setID(e.GetId())
	d.setURL(e.GetUrl())
	d.setRef(e.GetRef())
	d.setUserAgent(e.GetUserAgent())
	d.setRefQuery(e.GetRefQuery())
	if e.GetTimeMs() != 0 {
		d.time, d.timed = proto.Millis(e.GetTimeMs()), true
	}
	d.lmt = e.GetLmt()
	for _, id := range e.GetIdentities() {
		d.addIdentity(id)
	}
	clean := legible(d.event.Name) && legible(d.event.ID) && legible(d.event.URL) && legible(d.event.Ref)
	for _, key := range sortedKeys(e.GetProps()) {
		v := valueOf(e.GetProps()[key])
		clean = clean && legible(key) && legible(v.Text)
		d.addProp(key, v)
	}
	if !clean {
		d.refuse(proto.CodeEvent, "a text holds control characters or invalid UTF-8: clean it")
	}
}

package gateway

import (
	"strings"

	"kith/proto"
)

// dataProvider is the id, and the name, of our entry in user.data.
const dataProvider = "kith"

// uidsMax bounds the identities in eids of our source: more are refused, as one of
// them may be opted out.
const uidsMax = 16

// bid is one BidRequest (OpenRTB 2.6) in work: what it says of the person, and
// where in its text ours belongs. The text itself is never rewritten, so that
// what kith does not know stays as it came. It is reused.
type bid struct {
	scan   scanner
	body   []byte
	answer []byte

	source string // of our eids; set before parse

	// Read by parse; texts alias body or scan.text.
	signals  signals
	ifa, os  string
	userID   string
	buyerUID string
	uids     []string // of eids of our source
	own      bool     // the entry under way is ours
	overUIDs bool     // it has uids beyond uidsMax
	edits    []edit   // in the order of the text
	hasUser  bool
	hasData  bool
	hasEIDs  bool
	ext      int // 1 within an ext, else 0

	// What is added; empty: nothing.
	subject  proto.Identity
	segments []proto.SegmentID
	data     []byte // an entry of user.data
	eid      []byte // an entry of user.eids
}

func (x *bid) reset() {
	*x = bid{
		scan: x.scan, body: x.body[:0], answer: x.answer[:0], uids: x.uids[:0], edits: x.edits[:0],
		segments: x.segments[:0], data: x.data[:0], eid: x.eid[:0],
	}
}

// part is what an edit puts in.
type part uint8

const (
	partNone part = iota // it only cuts out
	partData
	partEIDs
	partUser
)

// form is how it does that.
type form uint8

const (
	asEntry  form = iota // among an array's entries
	asValue              // in place of a null
	asMember             // as a member of an object, with its name
)

// edit replaces the bytes from from to to.
type edit struct {
	from, to int
	part     part
	form     form
	first    bool // nothing stands before it in its array or object
}

// cut takes bytes out. Neighbours become one.
func (x *bid) cut(from, to int) {
	if n := len(x.edits); n > 0 && x.edits[n-1].part == partNone && x.edits[n-1].to == from {
		x.edits[n-1].to = to
		return
	}
	x.edits = append(x.edits, edit{from: from, to: to})
}

// parse reads a request. Fields that matter here may be there once: of two,
// others might read the other one.
func (x *bid) parse(body []byte) error {
	s := &x.scan
	s.reset(body)
	if s.peek() != '{' {
		s.fail("a BidRequest, an object, must be here")
		return s.err
	}
	members := x.object("the body", (*bid).topField)
	at := s.i - 1
	if !s.end() {
		return s.err
	}
	if !x.hasUser {
		x.edits = append(x.edits, edit{at, at, partUser, asMember, members == 0})
	}
	return nil
}

// object reads an object, or null, and gives the number of its members. field
// reads the value of one; the bit that it gives tells fields apart, 0 is for
// those that may come twice.
func (x *bid) object(name string, field func(x *bid, key string) uint) (members int) {
	s := &x.scan
	switch s.peek() {
	case 'n':
		s.literal("null")
		return 0
	case '{':
		s.i++
	default:
		s.fail(name + " must be an object")
		return 0
	}
	var seen uint
	for first := true; s.more(&first, '}'); members++ {
		key, ok := s.key()
		if !ok {
			break
		}
		bit := field(x, key)
		if seen&bit != 0 {
			s.fail("a field of " + name + " is there twice")
		}
		seen |= bit
	}
	return members
}

func (x *bid) topField(key string) uint {
	switch key {
	case "user":
		x.hasUser = true
		x.parseUser()
		return 1
	case "device":
		x.object("device", (*bid).deviceField)
		return 2
	case "regs":
		x.object("regs", (*bid).regsField)
		return 4
	}
	x.scan.skip()
	return 0
}

func (x *bid) parseUser() {
	s := &x.scan
	if s.peek() == 'n' {
		from := s.i
		s.literal("null")
		x.edits = append(x.edits, edit{from, s.i, partUser, asValue, true})
		return
	}
	members := x.object("user", (*bid).userField)
	at := s.i - 1
	if !x.hasData {
		x.edits = append(x.edits, edit{at, at, partData, asMember, members == 0})
	}
	if !x.hasEIDs {
		x.edits = append(x.edits, edit{at, at, partEIDs, asMember, members == 0})
	}
}

func (x *bid) userField(key string) uint {
	switch key {
	case "id":
		x.userID = x.text()
		return 1
	case "buyeruid":
		x.buyerUID = x.text()
		return 2
	case "consent":
		x.signals.consent[0] = x.signal()
		return 4
	case "data":
		x.hasData = true
		x.parseList("user.data", partData, (*bid).dataEntry)
		return 8
	case "eids":
		x.hasEIDs = true
		x.parseList("user.eids", partEIDs, (*bid).eidEntry)
		return 16
	case "ext":
		x.object("user.ext", (*bid).userExtField)
		return 32
	}
	x.scan.skip()
	return 0
}

func (x *bid) userExtField(key string) uint {
	switch key {
	case "consent":
		x.signals.consent[1] = x.signal()
		return 1
	case "eids": // where they were before OpenRTB 2.6
		x.parseList("user.ext.eids", partNone, (*bid).eidEntry)
		return 2
	}
	x.scan.skip()
	return 0
}

func (x *bid) deviceField(key string) uint {
	switch key {
	case "ifa":
		x.ifa = x.text()
		return 1
	case "os":
		x.os = x.text()
		return 2
	case "lmt":
		x.flag(&x.signals.lmt)
		return 4
	case "dnt":
		x.flag(&x.signals.dnt)
		return 8
	}
	x.scan.skip()
	return 0
}

// regsField reads a field of regs, or of regs.ext, where older versions have
// most of them.
func (x *bid) regsField(key string) uint {
	switch key {
	case "coppa":
		x.flag(&x.signals.coppa)
		return 1
	case "gdpr":
		x.signals.gdprSaid = x.flag(&x.signals.gdpr) || x.signals.gdprSaid
		return 2
	case "gpc":
		x.flag(&x.signals.gpc)
		return 4
	case "us_privacy":
		x.signals.usPrivacy[x.ext] = x.signal()
		return 8
	case "gpp":
		x.signals.gpp[x.ext] = x.signal()
		return 16
	case "gpp_sid":
		x.parseSections()
		return 32
	case "ext":
		if x.ext == 0 {
			x.ext = 1
			x.object("regs.ext", (*bid).regsField)
			x.ext = 0
			return 64
		}
	}
	x.scan.skip()
	return 0
}

// text reads a string that may name somebody, "" of anything else.
func (x *bid) text() string {
	s := &x.scan
	if s.peek() != '"' {
		s.skip()
		return ""
	}
	s.odd = false
	v, _ := s.str()
	if s.odd {
		return ""
	}
	return v
}

// signal reads a string that may allow something. What is no string, but is
// there, is "?", which allows nothing.
func (x *bid) signal() string {
	s := &x.scan
	switch s.peek() {
	case '"':
		v, _ := s.str()
		return v
	case 'n':
		s.literal("null")
		return ""
	}
	s.skip()
	return "?"
}

// flag sets on unless a value says no: 0, false, null, "", "0", "false". It reports
// whether the value says anything.
func (x *bid) flag(on *bool) (said bool) {
	s := &x.scan
	switch s.peek() {
	case '"':
		v, _ := s.str()
		*on = *on || v != "" && v != "0" && v != "false"
		return v != ""
	case 'f':
		s.literal("false")
	case 'n':
		s.literal("null")
		return false
	case 't', '{', '[':
		s.skip()
		*on = true
	default:
		v, _ := s.number()
		*on = *on || v != 0
	}
	return true
}

// parseSections reads gpp_sid: an array of numbers, or what some write instead.
// An empty one says nothing.
func (x *bid) parseSections() {
	s := &x.scan
	switch s.peek() {
	case 'n':
		s.literal("null")
		return
	case '"':
		v, _ := s.str()
		x.signals.sections.parse(v)
		return
	case '[':
		s.i++
	default:
		s.skip()
		x.signals.sections.listed, x.signals.sections.other = true, true
		return
	}
	for first := true; s.more(&first, ']'); {
		if c := s.peek(); c == '"' {
			v, _ := s.str()
			x.signals.sections.parse(v)
			continue
		} else if c != '-' && (c < '0' || c > '9') {
			s.skip()
			x.signals.sections.other = true
			continue
		}
		v, _ := s.number()
		x.signals.sections.add(v)
	}
}

// parseList reads user.data or user.eids, cuts out what ours tells apart, and
// notes where our new entry goes, if there is to be one: behind all others.
func (x *bid) parseList(name string, what part, ours func(x *bid) bool) {
	s := &x.scan
	switch s.peek() {
	case 'n':
		from := s.i
		s.literal("null")
		if what != partNone {
			x.edits = append(x.edits, edit{from, s.i, what, asValue, true})
		}
		return
	case '[':
		s.i++
	default:
		s.fail(name + " must be an array")
		return
	}
	kept, end := 0, s.i // end: where the entry before ends
	lead := -1          // where ours begin, while nothing is kept
	for first := true; s.more(&first, ']'); {
		s.peek()
		from := s.i
		own := ours(x)
		switch {
		case own && kept > 0:
			x.cut(end, s.i) // with the comma before it
		case own && lead < 0:
			lead = from
		case !own:
			if lead >= 0 {
				x.cut(lead, from) // with the comma behind it
				lead = -1
			}
			kept++
		}
		end = s.i
	}
	if lead >= 0 {
		x.cut(lead, end)
	}
	if what != partNone {
		x.edits = append(x.edits, edit{end, end, what, asEntry, kept == 0})
	}
}

// dataEntry reads an entry of user.data and reports whether it is ours.
func (x *bid) dataEntry() (own bool) {
	x.own = false
	x.entry("an entry of user.data", (*bid).dataField)
	return x.own
}

// entry reads an object in an array. Anything else there says nothing.
func (x *bid) entry(name string, field func(x *bid, key string) uint) {
	if x.scan.peek() != '{' {
		x.scan.skip()
		return
	}
	x.object(name, field)
}

func (x *bid) dataField(key string) uint {
	if key == "id" {
		x.own = x.text() == dataProvider
		return 1
	}
	x.scan.skip()
	return 0
}

// eidEntry reads an entry of eids and reports whether it is ours; then its uids
// are kept.
func (x *bid) eidEntry() (own bool) {
	before := len(x.uids)
	x.own, x.overUIDs = false, false
	x.entry("an entry of eids", (*bid).eidField)
	switch {
	case !x.own:
		x.uids = x.uids[:before]
	case x.overUIDs:
		x.scan.fail("eids of ours have more than 16 uids")
	}
	return x.own
}

func (x *bid) eidField(key string) uint {
	switch key {
	case "source":
		x.own = strings.EqualFold(x.text(), x.source)
		return 1
	case "uids":
		x.parseUIDs()
		return 2
	}
	x.scan.skip()
	return 0
}

func (x *bid) parseUIDs() {
	s := &x.scan
	if s.peek() != '[' {
		s.skip()
		return
	}
	s.i++
	for first := true; s.more(&first, ']'); {
		x.entry("a uid", (*bid).uidField)
	}
}

func (x *bid) uidField(key string) uint {
	if key != "id" {
		x.scan.skip()
		return 0
	}
	switch v := x.text(); {
	case v == "": // names nobody
	case len(x.uids) < uidsMax:
		x.uids = append(x.uids, v)
	default:
		x.overUIDs = true
	}
	return 1
}

// has reports whether there is something to put in.
func (x *bid) has(p part) bool {
	switch p {
	case partData:
		return len(x.data) > 0
	case partEIDs:
		return len(x.eid) > 0
	}
	return len(x.data) > 0 || len(x.eid) > 0
}

// splice writes the answer: the body with the edits that have something to do.
func (x *bid) splice() {
	b, from := x.answer[:0], 0
	named := false // a member of ours stands in user already
	for _, e := range x.edits {
		if e.part != partNone && !x.has(e.part) {
			continue
		}
		b = append(b, x.body[from:e.from]...)
		from = e.to
		if e.part == partNone {
			continue
		}
		if e.form != asValue && !(e.first && !named) {
			b = append(b, ',')
		}
		b = x.appendPart(b, e)
		named = e.form == asMember
	}
	x.answer = append(b, x.body[from:]...)
}

func (x *bid) appendPart(b []byte, e edit) []byte {
	if e.part == partUser {
		if e.form == asMember {
			b = append(b, `"user":`...)
		}
		return x.appendUser(b)
	}
	name, entry := `"data":`, x.data
	if e.part == partEIDs {
		name, entry = `"eids":`, x.eid
	}
	switch e.form {
	case asEntry:
		return append(b, entry...)
	case asMember:
		b = append(b, name...)
	}
	b = append(b, '[')
	b = append(b, entry...)
	return append(b, ']')
}

// appendUser writes a user that was not there.
func (x *bid) appendUser(b []byte) []byte {
	b = append(b, '{')
	if len(x.data) > 0 {
		b = append(b, `"data":[`...)
		b = append(b, x.data...)
		b = append(b, ']')
	}
	if len(x.eid) > 0 {
		if len(x.data) > 0 {
			b = append(b, ',')
		}
		b = append(b, `"eids":[`...)
		b = append(b, x.eid...)
		b = append(b, ']')
	}
	return append(b, '}')
}

package ingest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"kith/proto"
)

// DefaultSalt keys the hash of address and agent where no salt is given. A
// deployment that must not have its visitors guessed from known addresses
// passes its own, always the same.
const DefaultSalt = "kith combined log"

// combinedDecoder reads the combined log format of Apache and nginx:
//
//	host ident user [day/month/year:hour:minute:second zone] "request" status bytes "referrer" "agent"
//
// Every line that parses becomes an event "page" of the identity
// browser:HMAC-SHA256(salt, host 0x00 agent), cut to 32 hex digits: the full
// address tells visitors apart but is neither stored nor sent. Properties: path,
// method, status, bytes (0 for -). The agent goes along for the node to read, "-"
// too: what that and the referrer say is derived there. The path loses its query
// and fragment, the referrer its fragment, a user, and its query where an e-mail
// address may stand in it. ident and user are dropped.
type combinedDecoder struct {
	mac hash.Hash
	sum []byte

	day     [11]byte // "17/May/2015" of midnight
	zone    [5]byte
	date    time.Time
	scratch []byte
}

func newCombinedDecoder(salt string) *combinedDecoder {
	return &combinedDecoder{mac: hmac.New(sha256.New, []byte(salt))}
}

// combinedLine is a line's parts, quoted ones still escaped.
type combinedLine struct {
	host, when, request, status, size, ref, agent []byte
}

func (d *combinedDecoder) decode(line []byte, row *Row) *proto.Error {
	p, refusal := splitCombined(line)
	if refusal != nil {
		return refusal
	}
	when, ok := d.parseTime(p.when)
	if !ok {
		return proto.Errorf(ReasonMalformed, "the time is not [day/month/year:hour:minute:second zone]")
	}
	method, target, ok := d.splitRequest(p.request)
	if !ok {
		return proto.Errorf(ReasonMalformed, "the request is not METHOD target HTTP/version")
	}
	status, size, ok := parseNumbers(p.status, p.size)
	if !ok {
		return proto.Errorf(ReasonMalformed, "status or bytes is not a number")
	}
	row.Event, row.Time = "page", when
	row.Identities = append(row.Identities, d.visitor(p.host, p.agent))
	path, _, _ := strings.Cut(target, "?")
	path, _, _ = strings.Cut(path, "#")
	row.URL = path
	row.addText("path", path)
	row.addText("method", method)
	row.addNumber("status", status)
	row.addNumber("bytes", size)
	row.endProps()
	row.Ref = d.referrer(p.ref)
	row.UserAgent = d.agent(p.agent)
	return nil
}

// splitCombined finds the parts and refuses anything before, between or after
// them that the format does not have.
func splitCombined(line []byte) (combinedLine, *proto.Error) {
	var p combinedLine
	s := scanner{rest: line}
	p.host = s.word()
	ident := s.word()
	user := s.user()
	p.when = s.until(']')
	s.space()
	p.request = s.quoted()
	s.space()
	p.status = s.word()
	p.size = s.word()
	p.ref = s.quoted()
	s.space()
	p.agent = s.quoted()
	switch {
	case s.unclosed:
		return p, proto.Errorf(ReasonMalformed, "a quote is not closed")
	case s.bad || len(p.host) == 0 || len(s.rest) != 0:
		return p, proto.Errorf(ReasonMalformed, "the line is not in combined log format")
	case bytes.HasPrefix(user, []byte("- ")) || isAddress(ident):
		return p, proto.Errorf(ReasonMalformed, "a field stands before the address, such as a virtual host's name: cut it off each line")
	}
	return p, nil
}

// isAddress reports whether an ident is the visitor's address, as behind a virtual
// host's name: all visitors of the host would be one.
func isAddress(ident []byte) bool {
	if len(ident) < 2 { // almost all are -
		return false
	}
	_, err := netip.ParseAddr(string(ident))
	return err == nil
}

// scanner takes parts off a line; after the first failure bad stays true.
type scanner struct {
	rest          []byte
	bad, unclosed bool
}

// word takes up to the next space, and the space.
func (s *scanner) word() []byte { return s.until(' ') }

func (s *scanner) until(c byte) []byte {
	i := bytes.IndexByte(s.rest, c)
	if i < 0 {
		s.bad, s.rest = true, nil
		return nil
	}
	out := s.rest[:i]
	s.rest = s.rest[i+1:]
	return out
}

// user takes the remote user, which may hold spaces, and the bracket after it.
func (s *scanner) user() []byte {
	i := bytes.Index(s.rest, []byte(" ["))
	if i < 0 {
		s.bad, s.rest = true, nil
		return nil
	}
	out := s.rest[:i]
	s.rest = s.rest[i+2:]
	return out
}

func (s *scanner) space() {
	if len(s.rest) == 0 || s.rest[0] != ' ' {
		s.bad, s.rest = true, nil
		return
	}
	s.rest = s.rest[1:]
}

// quoted takes a quoted string, leaving its escapes in.
func (s *scanner) quoted() []byte {
	if len(s.rest) == 0 || s.rest[0] != '"' {
		s.bad, s.rest = true, nil
		return nil
	}
	for i := 1; i < len(s.rest); i++ {
		switch s.rest[i] {
		case '\\':
			i++
		case '"':
			out := s.rest[1:i]
			s.rest = s.rest[i+1:]
			return out
		}
	}
	s.bad, s.unclosed, s.rest = true, true, nil
	return nil
}

// unescape undoes \" \\ \n \t \r \b \f \v and \xhh; ok is false for any other
// escape.
func unescape(in, out []byte) (_ []byte, ok bool) {
	for i := 0; i < len(in); i++ {
		c := in[i]
		if c != '\\' {
			out = append(out, c)
			continue
		}
		i++
		if i >= len(in) {
			return out, false
		}
		switch k := strings.IndexByte(`"\ntrbfv`, in[i]); {
		case k >= 0:
			out = append(out, "\"\\\n\t\r\b\f\v"[k])
		case in[i] == 'x' && i+2 < len(in):
			v, err := strconv.ParseUint(string(in[i+1:i+3]), 16, 8)
			if err != nil {
				return out, false
			}
			out = append(out, byte(v))
			i += 2
		default:
			return out, false
		}
	}
	return out, true
}

// text unescapes in and refuses what could not stand in a property.
func (d *combinedDecoder) text(in []byte) (string, bool) {
	ok := true
	if bytes.IndexByte(in, '\\') >= 0 {
		d.scratch, ok = unescape(in, d.scratch[:0])
		in = d.scratch
	}
	for _, c := range in {
		ok = ok && c >= ' ' && c != 0x7f
	}
	return string(in), ok && utf8.Valid(in)
}

// splitRequest reads "METHOD target HTTP/x.y".
func (d *combinedDecoder) splitRequest(request []byte) (method, target string, ok bool) {
	text, ok := d.text(request)
	method, rest, found := strings.Cut(text, " ")
	target, version, versioned := cutLast(rest, " ")
	if !ok || !found || !versioned || !strings.HasPrefix(version, "HTTP/") || target == "" || !isMethod(method) {
		return "", "", false
	}
	return method, target, true
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func isMethod(s string) bool {
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			return false
		}
	}
	return s != "" && len(s) <= 16
}

func parseNumbers(status, size []byte) (code, n int64, ok bool) {
	code, err := strconv.ParseInt(string(status), 10, 64)
	if err != nil || code < 100 || code > 999 {
		return 0, 0, false
	}
	if len(size) == 1 && size[0] == '-' {
		return code, 0, true
	}
	n, err = strconv.ParseInt(string(size), 10, 64)
	return code, n, err == nil && n >= 0
}

// agent is the user agent, without what cannot be in a text; "-" if the request
// had none.
func (d *combinedDecoder) agent(raw []byte) string {
	text, ok := d.text(raw)
	switch {
	case text == "":
		return "-"
	case !ok:
		return strings.ToValidUTF8(text, "")
	}
	return text
}

// referrer is what is sent of one.
func (d *combinedDecoder) referrer(raw []byte) string {
	ref, ok := d.text(raw)
	if !ok || ref == "-" {
		return ""
	}
	ref, _, _ = strings.Cut(ref, "#")
	if path, query, ok := strings.Cut(ref, "?"); ok && (strings.Contains(query, "@") || strings.Contains(query, "%40")) {
		ref = path
	}
	scheme, rest, found := strings.Cut(ref, "://")
	if !found {
		return ref
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	if _, host, userinfo := cutLast(rest[:end], "@"); userinfo {
		return scheme + "://" + host + rest[end:]
	}
	return ref
}

// visitor is the identity that stands for address and agent.
func (d *combinedDecoder) visitor(host, agent []byte) string {
	d.mac.Reset()
	d.mac.Write(host)
	d.mac.Write([]byte{0})
	d.mac.Write(agent)
	d.sum = d.mac.Sum(d.sum[:0])
	return "browser:" + hex.EncodeToString(d.sum[:16])
}

// parseTime reads 17/May/2015:10:05:03 +0000. The day is kept from the line
// before: a log has many lines of one day.
func (d *combinedDecoder) parseTime(b []byte) (time.Time, bool) {
	if len(b) != len("17/May/2015:10:05:03 +0000") || b[11] != ':' || b[14] != ':' || b[17] != ':' || b[20] != ' ' {
		return time.Time{}, false
	}
	if !bytes.Equal(b[:11], d.day[:]) || !bytes.Equal(b[21:], d.zone[:]) {
		t, err := time.Parse("02/Jan/2006 -0700", string(b[:11])+" "+string(b[21:]))
		if err != nil {
			return time.Time{}, false
		}
		copy(d.day[:], b[:11])
		copy(d.zone[:], b[21:])
		d.date = t.UTC()
	}
	hour, ok1 := twoDigits(b[12:14], 23)
	minute, ok2 := twoDigits(b[15:17], 59)
	second, ok3 := twoDigits(b[18:20], 60) // a leap second counts into the next minute
	offset := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
	return d.date.Add(offset), ok1 && ok2 && ok3
}

func twoDigits(b []byte, most int) (int, bool) {
	if b[0] < '0' || b[0] > '9' || b[1] < '0' || b[1] > '9' {
		return 0, false
	}
	n := int(b[0]-'0')*10 + int(b[1]-'0')
	return n, n <= most
}

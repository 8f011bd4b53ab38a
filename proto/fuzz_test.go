package proto_test

import (
	"bytes"
	"math"
	"testing"

	"kith/proto"
)

// FuzzDecodeEntry opens bytes as an entry; what it takes holds only commands
// that it knows.
func FuzzDecodeEntry(f *testing.F) {
	b, _ := goldenEntry().Encode()
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := proto.DecodeEntry(b, 3)
		if err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatalf("code of %v", err)
			}
			return
		}
		again, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := proto.DecodeEntry(again, 3); err != nil {
			t.Fatalf("an entry that was taken is refused when sealed again: %v", err)
		}
	})
}

func FuzzDecodeControl(f *testing.F) {
	for _, c := range goldenControls() {
		b, _ := proto.EncodeControl(c)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := proto.DecodeControl(b); err == nil {
			if _, err := proto.EncodeControl(c); err != nil {
				t.Fatal(err)
			}
		} else if proto.CodeOf(err) != proto.CodeCorrupt {
			t.Fatalf("code of %v", err)
		}
	})
}

// FuzzCommands reads bytes as commands and each body by its kind. Whatever is
// taken packs and reads again as the same bytes.
func FuzzCommands(f *testing.F) {
	f.Add(goldenEntry().Commands)
	for _, c := range commandBodies() {
		f.Add(proto.AppendCommand(nil, c.Kind, c.Partition, c.Body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			c, rest, err := proto.NextCommand(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
			one, err := repack(c)
			if err != nil {
				if proto.CodeOf(err) != proto.CodeCorrupt {
					t.Fatalf("code of %v", err)
				}
				continue
			}
			two, err := repack(proto.Command{Kind: c.Kind, Body: one})
			if err != nil || !bytes.Equal(one, two) {
				t.Fatalf("kind %d: %x reads as %x, that as %x (%v)", c.Kind, c.Body, one, two, err)
			}
		}
	})
}

// repack decodes a command's body and packs it anew.
func repack(c proto.Command) ([]byte, error) {
	switch c.Kind {
	case proto.CommandEvent:
		var e proto.Event
		err := proto.DecodeEvent(c.Body, &e)
		for _, p := range e.Props {
			if err == nil && (math.IsNaN(p.Value.Number) || math.IsInf(p.Value.Number, 0)) {
				panic("a number that is none was taken")
			}
		}
		return e.Append(nil), err
	case proto.CommandBeat:
		x, err := proto.DecodeBeat(c.Body)
		return x.Append(nil), err
	case proto.CommandControl:
		x, err := proto.DecodeRelayed(c.Body)
		return x.Append(nil), err
	case proto.CommandFill:
		x, err := proto.DecodeFill(c.Body)
		return x.Append(nil), err
	case proto.CommandForget:
		x, err := proto.DecodeForget(c.Body)
		return x.Append(nil), err
	case proto.CommandTraits:
		x, err := proto.DecodeTraits(c.Body)
		return x.Append(nil), err
	case proto.CommandLink:
		x, err := proto.DecodeLink(c.Body)
		return x.Append(nil), err
	case proto.CommandUnlink:
		x, err := proto.DecodeUnlink(c.Body)
		return x.Append(nil), err
	case proto.CommandCut:
		x, err := proto.DecodeCut(c.Body)
		return x.Append(nil), err
	case proto.CommandOptIn:
		x, err := proto.DecodeOptIn(c.Body)
		return x.Append(nil), err
	case proto.CommandGraph:
		x, err := proto.DecodeGraphPack(c.Body)
		return x.Append(nil), err
	}
	x, err := proto.DecodeReplay(c.Body)
	return x.Append(nil), err
}

func FuzzParseIdentity(f *testing.F) {
	for _, s := range []string{"browser:a1b2", "partner.acme:77", "browser:\xff", "account:ö", "browser: x", "stat:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := proto.ParseIdentity(s)
		if err == nil && (id.Kind()+":"+id.Value() != s || len(s) > proto.IdentityBytesMax+64) {
			t.Fatalf("%q is taken as %q", s, id)
		}
	})
}

func FuzzParsePosition(f *testing.F) {
	f.Add("0:15,3:77")
	f.Add("63:18446744073709551615")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := proto.ParsePosition(s)
		if err != nil {
			return
		}
		again, err := proto.ParsePosition(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q is read as %v, that as %v (%v)", s, p, again, err)
		}
	})
}

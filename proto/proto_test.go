package proto_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	gproto "google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"kith/proto"
	"kith/proto/pb"
)

func drawValue(t *rapid.T) proto.Value {
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return proto.NumberOf(rapid.Float64Range(-1e300, 1e300).Draw(t, "number"))
	case 1:
		return proto.FlagOf(rapid.Bool().Draw(t, "flag"))
	}
	return proto.TextOf(rapid.String().Draw(t, "text"))
}

func drawProps(t *rapid.T) []proto.Prop {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) proto.Prop {
		return proto.Prop{Key: rapid.String().Draw(t, "key"), Value: drawValue(t)}
	}), 0, 5).Draw(t, "props")
}

func drawMillis(t *rapid.T, name string) proto.Millis {
	return proto.Millis(rapid.Int64Range(-1<<52, 1<<52).Draw(t, name))
}

func drawEvent(t *rapid.T) proto.Event {
	identity := rapid.Custom(func(t *rapid.T) proto.Identity { return proto.Identity(rapid.String().Draw(t, "identity")) })
	return proto.Event{
		Client: proto.ClientID(rapid.Uint32().Draw(t, "client")), Space: proto.SpaceID(rapid.Uint32().Draw(t, "space")),
		Time: drawMillis(t, "time"), Received: drawMillis(t, "received"), ID: rapid.String().Draw(t, "id"),
		Identities: rapid.SliceOfN(identity, 1, 8).Draw(t, "identities"),
		EventBody:  proto.EventBody{Name: rapid.String().Draw(t, "name"), URL: rapid.String().Draw(t, "url"), Ref: rapid.String().Draw(t, "ref"), Props: drawProps(t)},
	}
}

// same compares what was packed with what was read; reused slices may be
// empty instead of nil.
func same(t interface{ Fatalf(string, ...any) }, want, got any) {
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("what was packed reads otherwise (-packed +read):\n%s", diff)
	}
}

func must(t *rapid.T, err error) {
	if err != nil {
		t.Fatalf("what was packed does not decode: %v", err)
	}
}

func TestRoundTrips(t *testing.T) {
	var event proto.Event // reused, as by a lane's hosts
	rapid.Check(t, func(t *rapid.T) {
		e := drawEvent(t)
		must(t, proto.DecodeEvent(e.Append(nil), &event))
		same(t, e, event)

		beat := proto.Beat{Node: rapid.String().Draw(t, "node"), Incarnation: rapid.Uint64().Draw(t, "inc"), Time: drawMillis(t, "beat"), Follows: rapid.Bool().Draw(t, "follows"), Releases: rapid.Bool().Draw(t, "releases"), At: proto.Offset(rapid.Uint64().Draw(t, "at"))}
		if beat.At != 0 {
			beat.Chain = rapid.Uint64().Draw(t, "chain")
		}
		gotBeat, err := proto.DecodeBeat(beat.Append(nil))
		must(t, err)
		same(t, beat, gotBeat)

		relayed := proto.Relayed{Seq: rapid.Uint64Min(1).Draw(t, "seq"), Record: rapid.SliceOf(rapid.Byte()).Draw(t, "record")}
		gotRelayed, err := proto.DecodeRelayed(relayed.Append(nil))
		must(t, err)
		same(t, relayed, gotRelayed)

		first := rapid.Uint32().Draw(t, "first")
		fill := proto.Fill{Client: 3, Segment: proto.SegmentKey(rapid.Uint32().Draw(t, "segment")), First: proto.Ordinal(first), Last: proto.Ordinal(rapid.Uint32Min(first).Draw(t, "last")), Done: rapid.Bool().Draw(t, "done")}
		gotFill, err := proto.DecodeFill(fill.Append(nil))
		must(t, err)
		same(t, fill, gotFill)

		forget := proto.Forget{Client: 3, Space: 2, First: fill.First, Last: fill.Last, Done: fill.Done}
		gotForget, err := proto.DecodeForget(forget.Append(nil))
		must(t, err)
		same(t, forget, gotForget)

		expire := proto.Expire{Ordinals: []proto.Ordinal{fill.First}}
		if fill.Last > fill.First {
			expire.Ordinals = append(expire.Ordinals, fill.Last)
		}
		gotExpire, err := proto.DecodeExpire(expire.Append(nil))
		must(t, err)
		same(t, expire, gotExpire)

		traits := proto.Traits{Client: 3, Space: 2, Identity: "browser:x", Received: drawMillis(t, "received"), Set: drawProps(t), Needs: rapid.StringN(0, 64, -1).Draw(t, "needs")}
		gotTraits, err := proto.DecodeTraits(traits.Append(nil))
		must(t, err)
		same(t, traits, gotTraits)

		kind := rapid.SampledFrom([]proto.CommandKind{proto.CommandEvent, proto.CommandTraits}).Draw(t, "kind")
		replay := proto.Replay{Offset: proto.Offset(rapid.Uint64().Draw(t, "offset")), Index: int(rapid.Uint32().Draw(t, "index")), Kind: kind, Body: rapid.SliceOf(rapid.Byte()).Draw(t, "body")}
		gotReplay, err := proto.DecodeReplay(replay.Append(nil))
		must(t, err)
		same(t, replay, gotReplay)
	})
}

// A batch keeps its commands and their order, and each can be taken alone.
func TestBatch(t *testing.T) {
	h := proto.NewHasher([16]byte{7})
	rapid.Check(t, func(t *rapid.T) {
		var b proto.Batch
		var want [][]byte
		for range rapid.IntRange(1, 5).Draw(t, "events") {
			e := drawEvent(t)
			b.AddEvent(h, &e)
			want = append(want, e.Append(nil))
		}
		traits := goldenTraits()
		b.AddTraits(h, &traits)
		want = append(want, traits.Append(nil))
		rest := b.Bytes()
		for i := range want {
			raw, p := b.Item(i)
			c, more, err := proto.NextCommand(rest)
			must(t, err)
			if rest = more; string(c.Body) != string(want[i]) || c.Partition != p || len(raw) <= len(c.Body) || p >= proto.Partitions {
				t.Fatalf("command %d is %x for %v, want %x for %v", i, c.Body, c.Partition, want[i], p)
			}
		}
		if len(rest) != 0 || b.Len() != len(want) || b.Size() != len(b.Bytes()) {
			t.Fatalf("%d bytes are left of a batch of %d", len(rest), b.Len())
		}
	})
}

func TestEntryRoundTrip(t *testing.T) {
	want := goldenEntry()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := proto.DecodeEntry(b, 3)
	if err != nil {
		t.Fatal(err)
	}
	same(t, want, got)
	rest := got.Commands
	for i, c := range commandBodies()[:want.Count] {
		var x proto.Command
		if x, rest, err = proto.NextCommand(rest); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, x); diff != "" {
			t.Errorf("command %d (-want +got):\n%s", i, diff)
		}
	}
}

// Whatever is wrong with an entry, opening it says so and names a way out.
func TestEntryRefused(t *testing.T) {
	seal := func(change func(*pb.Entry)) []byte {
		b, _ := goldenEntry().Encode()
		var x pb.Entry
		if err := gproto.Unmarshal(b, &x); err != nil {
			t.Fatal(err)
		}
		change(&x)
		b, _ = gproto.Marshal(&x)
		return b
	}
	// forged has a right checksum over wrong contents.
	forged := func(change func(*proto.Entry)) []byte {
		e := goldenEntry()
		change(e)
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  string
	}{
		"empty":              {nil, "version 0"},
		"not an envelope":    {[]byte{0xff, 1}, "not an envelope"},
		"newer version":      {seal(func(x *pb.Entry) { x.Version = 2 }), "version 2"},
		"lane":               {forged(func(e *proto.Entry) { e.Lane = 4 }), "lies in lane 3"},
		"lane beyond a byte": {seal(func(x *pb.Entry) { x.Lane = 256 + 3 }), "lane"},
		"crc":                {seal(func(x *pb.Entry) { x.Crc++ }), "checksum"},
		"time":               {seal(func(x *pb.Entry) { x.TimeMs++ }), "checksum"},
		"producer":           {seal(func(x *pb.Entry) { x.Producer++ }), "checksum"},
		"seq":                {seal(func(x *pb.Entry) { x.Seq++ }), "checksum"},
		"commands":           {seal(func(x *pb.Entry) { x.Commands[40] ^= 1 }), "checksum"},
		"chain number 0":     {forged(func(e *proto.Entry) { e.Seq = 0 }), "chain number 0"},
		"count high":         {forged(func(e *proto.Entry) { e.Count++ }), "holds 6 commands but says 7"},
		"count low":          {forged(func(e *proto.Entry) { e.Count-- }), "holds 6 commands but says 5"},
		"too many":           {forged(func(e *proto.Entry) { e.Count = proto.EntryCommandsMax + 1 }), "4097 commands"},
		"unknown command":    {forged(func(e *proto.Entry) { e.Commands = proto.AppendCommand(nil, 99, 1, nil); e.Count = 1 }), "kind 99 is unknown: a newer kith"},
		"command kind 0":     {forged(func(e *proto.Entry) { e.Commands = proto.AppendCommand(nil, 0, 1, nil); e.Count = 1 }), "kind 0 is unknown"},
		"partition":          {forged(func(e *proto.Entry) { e.Commands = proto.AppendCommand(nil, proto.CommandEvent, 64, nil); e.Count = 1 }), "partition 64"},
		"beat at home":       {forged(func(e *proto.Entry) { e.Commands = proto.AppendCommand(nil, proto.CommandBeat, 1, nil); e.Count = 1 }), "for the lane"},
		"cut command":        {forged(func(e *proto.Entry) { e.Commands = e.Commands[:len(e.Commands)-1] }), "malformed"},
		"too large":          {make([]byte, 2*proto.EntryBytesMax+1), "more than any version writes"},
	} {
		_, err := proto.DecodeEntry(c.bytes, 3)
		if proto.CodeOf(err) != proto.CodeCorrupt || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want corrupt with %q", name, err, c.want)
		}
	}
}

func TestControlRefused(t *testing.T) {
	b, err := proto.EncodeControl(goldenControls()["define"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proto.DecodeControl(b); err != nil {
		t.Fatal(err)
	}
	newer, _ := gproto.Marshal(&pb.Control{Version: 2, Body: &pb.Control_Activate{}})
	bodyless, _ := gproto.Marshal(&pb.Control{Version: 1})
	for name, b := range map[string][]byte{"empty": nil, "cut": b[:len(b)-1], "newer": newer, "unknown body": bodyless} {
		if _, err := proto.DecodeControl(b); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v, want corrupt", name, err)
		}
	}
}

func TestParseIdentity(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, s := range []string{"browser:3f0c", "aaid:38400000-8cf0-11bd-b23e-10b96e40000d", "partner.acme:77", "account:a:b:c", "stat:ö", "browser:" + long, "browser:00000000-0000-0000-0000-000000000001", "partner.a.b-c_D:1"} {
		id, err := proto.ParseIdentity(s)
		if err != nil || id.String() != s || id.Kind()+":"+id.Value() != s {
			t.Errorf("%q is refused or changed: %q, %v", s, id, err)
		}
	}
	for _, s := range []string{
		"", "browser", ":x", "browser:", "browser:0", "browser:000", "idfa:00000000-0000-0000-0000-000000000000", "browser:NULL", "browser:undefined", "browser:[object Object]",
		"unknown:x", "Browser:x", "partner.:x", "partner..x:1", "partner.a b:1", "partner.*:1", "browser:a b", "browser:a\r\nb", "browser:a\x00", "browser:\x7f", "browser:\xff", "browser:ö\n", "browser:ö\x00", "browser:" + long + "x",
	} {
		if id, err := proto.ParseIdentity(s); proto.CodeOf(err) != proto.CodeIdentity {
			t.Errorf("%q is taken as %q (%v), want a refusal", s, id, err)
		}
	}
}

// TestPlaceholder: what was to be replaced by an id is told from ids that look alike.
func TestPlaceholder(t *testing.T) {
	for _, s := range []string{
		"${UID}", "${USER_ID_1}", "$UID", "{{uid}}", "{{user.id}}", "{uid}", "[UID]", "[[uid]]", "<uid>", "%%UID%%", "%{uid}", "#{uid}", "__UID__",
		"%24%7BUID%7D", "%257B%257Buid%257D%257D", "%5BUID%5D", "d41d8cd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", strings.Repeat("0", 64), strings.Repeat("0-", 20),
		"%%ADVERTISING_IDENTIFIER_PLAIN%%",
	} {
		if !proto.Placeholder(s) {
			t.Errorf("%q is taken for a value", s)
		}
		if _, err := proto.ParseIdentity("partner.adx:" + s); err != nil {
			t.Errorf("who is called %q cannot be opted out: %v", s, err)
		}
	}
	for _, s := range []string{
		"", "$", "{}", "[]", "__", "____", "%", "%%%%", "$1a", "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}", "[a1]", "__7a__", "a${b}", "uid", "_uid", "%41b", "$2b$10$abc",
		"d41d8cd98f00b204e9800998ecf8427f", "3f0c9a7be1d24c55a6f1b2c3d4e5f607",
	} {
		if proto.Placeholder(s) {
			t.Errorf("%q is taken for a placeholder", s)
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range []string{"a", "A-z_9", "a.b", strings.Repeat("n", 64)} {
		if !proto.ValidName(s) {
			t.Errorf("name %q is refused", s)
		}
	}
	for _, s := range []string{"", ".", ".a", "a b", "a*", "a>", "a/b", "ö", "a\n", strings.Repeat("n", 65)} {
		if proto.ValidName(s) {
			t.Errorf("name %q is taken", s)
		}
	}
	if _, err := proto.ParseClientName("a.b"); proto.CodeOf(err) != proto.CodeClient {
		t.Errorf("a client name with a dot: %v", err)
	}
	if _, err := proto.ParseSegmentID("a b"); proto.CodeOf(err) != proto.CodeSegment {
		t.Errorf("a segment id with a space: %v", err)
	}
	if _, err := proto.ParseRole("root"); proto.CodeOf(err) != proto.CodeInvalid {
		t.Errorf("an unknown role: %v", err)
	}
}

func TestPosition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := proto.Position(rapid.MapOfN(rapid.Map(rapid.IntRange(0, proto.LanesMax-1), func(i int) proto.LaneID { return proto.LaneID(i) }),
			rapid.Map(rapid.Uint64(), func(u uint64) proto.Offset { return proto.Offset(u) }), 0, proto.LanesMax).Draw(t, "position"))
		got, err := proto.ParsePosition(p.String())
		must(t, err)
		same(t, p, got)
	})
	for _, s := range []string{"0", "0:", ":1", "64:1", "256:1", "-1:1", "0:1,", "0:1;1:2", "0:18446744073709551616", strings.Repeat("0:1,", 999)} {
		if p, err := proto.ParsePosition(s); proto.CodeOf(err) != proto.CodeInvalid {
			t.Errorf("position %q is read as %v, %v", s, p, err)
		}
	}
}

func TestOrdinal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		local, p := rapid.Uint32Range(0, 1<<26-1).Draw(t, "local"), proto.PartitionID(rapid.IntRange(0, 63).Draw(t, "partition"))
		if o := proto.MakeOrdinal(local, p); o.Local() != local || o.Partition() != p {
			t.Fatalf("ordinal of %d, %v reads as %d, %v", local, p, o.Local(), o.Partition())
		}
	})
}

// Nodes are ordered by hash, then space, as their keys in the store are.
func TestNodeCompare(t *testing.T) {
	nodes := []proto.Node{{Hash: proto.IdentityHash{1}, Space: 2}, {Hash: proto.IdentityHash{0, 9}, Space: 3}, {Hash: proto.IdentityHash{1}, Space: 1}}
	slices.SortFunc(nodes, proto.Node.Compare)
	want := []proto.Node{{Hash: proto.IdentityHash{0, 9}, Space: 3}, {Hash: proto.IdentityHash{1}, Space: 1}, {Hash: proto.IdentityHash{1}, Space: 2}}
	if diff := cmp.Diff(want, nodes); diff != "" {
		t.Errorf("order of nodes (-want +got):\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	if c := proto.CodeOf(nil); c != "" {
		t.Errorf("code of nil is %q", c)
	}
	if c := proto.CodeOf(io.EOF); c != proto.CodeInternal {
		t.Errorf("code of a foreign error is %q", c)
	}
	err := error(proto.Errorf(proto.CodeTimeout, "outer: %w", proto.Errorf(proto.CodeCorrupt, "inner: %w", io.EOF)))
	if proto.CodeOf(err) != proto.CodeTimeout || !errors.Is(err, io.EOF) {
		t.Errorf("%v has code %s and lost its cause", err, proto.CodeOf(err))
	}
	if s := (&proto.Error{Code: proto.CodeRule, Message: "no", Line: 2, Column: 7}).Error(); s != "rule: no (line 2, column 7)" {
		t.Errorf("error with a place reads %q", s)
	}
}

package proto_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kith/proto"
	"kith/proto/pb"
)

var update = flag.Bool("update-golden", false, "write the golden files anew")

// golden holds got against the bytes that an earlier build wrote.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: write it with -update-golden", err)
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: bytes on disk would change\n got %x\nwant %x", name, got, want)
	}
}

const goldenTime = proto.Millis(1_767_225_600_123) // 2026-01-01

func goldenEvent() *proto.Event {
	return &proto.Event{
		Client: 7, Space: 5, Time: goldenTime - 2500, Received: goldenTime, ID: "e-1",
		Identities: []proto.Identity{"browser:a1b2", "account:ö9"},
		EventBody: proto.EventBody{Name: "page", URL: "https://news.example/auto/1", Ref: "https://search.example/", Props: []proto.Prop{
			{Key: "section", Value: proto.TextOf("auto")},
			{Key: "price", Value: proto.NumberOf(-3.25)},
			{Key: "member", Value: proto.FlagOf(true)},
			{Key: "bot", Value: proto.FlagOf(false)},
			{Key: "", Value: proto.TextOf("")},
		}},
	}
}

func goldenBeat() proto.Beat {
	return proto.Beat{Node: "kith-1", Incarnation: 1 << 63, Time: goldenTime}
}

func goldenRelayed() proto.Relayed { return proto.Relayed{Seq: 300, Record: []byte{1, 2, 3}} }

func goldenFill() proto.Fill {
	return proto.Fill{Client: 7, Segment: 300, First: 64, Last: 70_000, Done: true}
}

func goldenForget() proto.Forget {
	return proto.Forget{Client: 7, Space: 300, First: 64, Last: 70_000, Done: true}
}

func goldenExpire() proto.Expire { return proto.Expire{Ordinals: []proto.Ordinal{0, 64, 70_000}} }

func goldenTraits() proto.Traits {
	return proto.Traits{Client: 7, Space: 5, Identity: "browser:a1b2", Received: goldenTime, Set: []proto.Prop{
		{Key: "age", Value: proto.NumberOf(41)}, {Key: "city", Value: proto.TextOf("Köln")}, {Key: "gone", Value: proto.TextOf("")},
	}}
}

func goldenReplay() proto.Replay {
	return proto.Replay{Offset: 70_000, Index: 3, Kind: proto.CommandEvent, Body: goldenEvent().Append(nil)}
}

func goldenHash(first byte) (h proto.IdentityHash) {
	for i := range h {
		h[i] = first + byte(i)
	}
	return h
}

func goldenLink() proto.LinkCommand {
	return proto.LinkCommand{Client: 7, Space: 300, A: "account:ö9", B: "browser:a1b2", Received: goldenTime, Confidence: 850, Inferred: true, Command: 1 << 60}
}

func goldenUnlink() proto.UnlinkCommand {
	return proto.UnlinkCommand{Client: 7, Space: 300, A: goldenHash(9), B: goldenHash(0x40), Received: goldenTime}
}

func goldenCut() proto.CutCommand {
	return proto.CutCommand{Hash: goldenHash(9), Kind: proto.CutForget, Everywhere: true, Received: goldenTime, Command: 1 << 60, Client: 7, Space: 300}
}

func goldenOptIn() proto.OptInCommand {
	return proto.OptInCommand{Hash: goldenHash(9), Gen: 301, Received: goldenTime, Command: 1 << 60}
}

func goldenGraphPack() proto.GraphPack {
	return proto.GraphPack{From: 63, First: 300, Batches: [][]byte{{1, 2, 3}, {}, {4}}}
}

// commandBodies are all kinds of commands, each with a packed body.
func commandBodies() []proto.Command {
	beat, relayed, fill, traits, replay := goldenBeat(), goldenRelayed(), goldenFill(), goldenTraits(), goldenReplay()
	link, unlink, cut, optIn, pack, forget := goldenLink(), goldenUnlink(), goldenCut(), goldenOptIn(), goldenGraphPack(), goldenForget()
	expire := goldenExpire()
	return []proto.Command{
		{Kind: proto.CommandEvent, Partition: 9, Body: goldenEvent().Append(nil)},
		{Kind: proto.CommandBeat, Partition: proto.LanePartition, Body: beat.Append(nil)},
		{Kind: proto.CommandControl, Partition: proto.LanePartition, Body: relayed.Append(nil)},
		{Kind: proto.CommandFill, Partition: proto.LanePartition, Body: fill.Append(nil)},
		{Kind: proto.CommandTraits, Partition: 63, Body: traits.Append(nil)},
		{Kind: proto.CommandReplay, Partition: 0, Body: replay.Append(nil)},
		{Kind: proto.CommandLink, Partition: 1, Body: link.Append(nil)},
		{Kind: proto.CommandUnlink, Partition: 9, Body: unlink.Append(nil)},
		{Kind: proto.CommandCut, Partition: 9, Body: cut.Append(nil)},
		{Kind: proto.CommandOptIn, Partition: 9, Body: optIn.Append(nil)},
		{Kind: proto.CommandGraph, Partition: proto.LanePartition, Body: pack.Append(nil)},
		{Kind: proto.CommandForget, Partition: proto.LanePartition, Body: forget.Append(nil)},
		{Kind: proto.CommandExpire, Partition: proto.LanePartition, Body: expire.Append(nil)},
	}
}

// goldenEntry has the kinds of commands that the first version had, so that its
// golden file is that version's.
func goldenEntry() *proto.Entry {
	e := &proto.Entry{Lane: 3, Producer: 0xfeedfacecafebeef, Seq: 17, Time: goldenTime}
	for _, c := range commandBodies()[:6] {
		e.Commands = proto.AppendCommand(e.Commands, c.Kind, c.Partition, c.Body)
		e.Count++
	}
	return e
}

// goldenControls are control records of every kind.
func goldenControls() map[string]*pb.Control {
	return map[string]*pb.Control{
		"client":       {TimeMs: int64(goldenTime), Body: &pb.Control_Client{Client: &pb.Client{Name: "acme", Space: "group", Floor: 50}}},
		"key":          {TimeMs: int64(goldenTime), Body: &pb.Control_Key{Key: &pb.Key{Sha256: bytes.Repeat([]byte{0xab}, 32), Client: "acme", Role: "client", Note: "kith_abc"}}},
		"revoke_key":   {TimeMs: int64(goldenTime), Body: &pb.Control_RevokeKey{RevokeKey: &pb.RevokeKey{Sha256: bytes.Repeat([]byte{0xab}, 32)}}},
		"define":       {TimeMs: int64(goldenTime), Body: &pb.Control_Define{Define: &pb.Define{Client: 7, Id: "auto", When: "true", Compiled: []byte{1, 2}, Scope: "identity", Backfill: true}}},
		"undefine":     {TimeMs: int64(goldenTime), Body: &pb.Control_Undefine{Undefine: &pb.Undefine{Client: 7, Id: "auto"}}},
		"erase_client": {TimeMs: int64(goldenTime), Body: &pb.Control_EraseClient{EraseClient: &pb.EraseClient{Client: 7, Space: 300}}},
		"retain":       {TimeMs: int64(goldenTime), Body: &pb.Control_Retain{Retain: &pb.Retain{Client: 7, SessionsMs: 1000, IdleMs: 2000}}},
		"campaign": {TimeMs: int64(goldenTime), Body: &pb.Control_Campaign{Campaign: &pb.Campaign{
			Client: 7, Day: 20000, Campaign: "spring", From: 19990, To: 20000, Unit: "users", By: "creative",
			Conversion: `event.name == "order"`, Window: "604800000ms", Impression: "impression", Click: "click",
		}}},
		"activate": {TimeMs: int64(goldenTime), Body: &pb.Control_Activate{Activate: &pb.Activate{Logic: 2}}},
	}
}

// Bytes that outlive the process stay what they are.
func TestGolden(t *testing.T) {
	names := map[proto.CommandKind]string{
		proto.CommandEvent: "event", proto.CommandBeat: "beat", proto.CommandControl: "relayed",
		proto.CommandFill: "fill", proto.CommandTraits: "traits", proto.CommandReplay: "replay",
		proto.CommandLink: "link", proto.CommandUnlink: "unlink", proto.CommandCut: "cut", proto.CommandOptIn: "optin", proto.CommandGraph: "graph",
		proto.CommandForget: "forget", proto.CommandExpire: "expire",
	}
	for _, c := range commandBodies() {
		golden(t, names[c.Kind], c.Body)
	}
	b, err := goldenEntry().Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "entry", b)
	for name, c := range goldenControls() {
		b, err := proto.EncodeControl(c)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "control_"+name, b)
	}
	h := proto.NewHasher([16]byte{1, 2, 3, 15: 9}).Hash("browser:a1b2")
	golden(t, "identity_hash", h[:])
	receipt := goldenReceipt()
	golden(t, "receipt", receipt.SignedBytes())
}

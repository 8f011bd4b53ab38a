package proto_test

import (
	"slices"
	"testing"

	"kith/proto"
)

// An event says its network last, and only if there is one.
func TestEventNetwork(t *testing.T) {
	e := proto.Event{Client: 1, Space: 1, Time: 5, Received: 7, Identities: []proto.Identity{"browser:a"}, EventBody: proto.EventBody{Name: "page"}}
	plain := e.Append(nil)
	e.Network = 1<<63 + 7
	long := e.Append(nil)
	if len(long) != len(plain)+8 || !slices.Equal(long[:len(plain)], plain) {
		t.Errorf("with a network %d bytes, without %d", len(long), len(plain))
	}
	var got proto.Event
	if err := proto.DecodeEvent(long, &got); err != nil || got.Network != e.Network {
		t.Errorf("read %v, %v", got.Network, err)
	}
	if err := proto.DecodeEvent(plain, &got); err != nil || got.Network != 0 {
		t.Errorf("of another event before it is left %v, %v", got.Network, err)
	}
	for _, bad := range [][]byte{long[:len(long)-1], append(slices.Clone(long), 0), append(slices.Clone(plain), make([]byte, 8)...)} {
		if err := proto.DecodeEvent(bad, &got); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%x is read: %v", bad, err)
		}
	}
}

func TestRotates(t *testing.T) {
	const letters = "abcdefghijklmnop"
	id := proto.RotatingID(20785, letters)
	if _, err := proto.ParseIdentity(string(id)); err != nil || id != "stat:r20785."+letters {
		t.Errorf("%q: %v", id, err)
	}
	if end, ok := proto.Rotates(id); !ok || end != proto.MillisOf(proto.Day(20786).Start()) {
		t.Errorf("ends %v, %v", end, ok)
	}
	never := proto.SuppressionID(letters)
	if _, err := proto.ParseIdentity(string(never)); err != nil || !proto.Made(never) || !proto.Made(id) {
		t.Errorf("%q: %v", never, err)
	}
	if _, ok := proto.Rotates(never); ok {
		t.Error("what stands for an opt-out ends")
	}
	for _, other := range []proto.Identity{"stat:abc", "stat:r", "stat:r.x", "stat:r1", "stat:r01.x", "stat:r-1.x", "stat:r+1.x", "stat:r1234567.x", "stat:ra.x", "browser:r1.x", "partner.stat:r1.x", "stat:never", ""} {
		if _, ok := proto.Rotates(other); ok || proto.Made(other) {
			t.Errorf("%q is taken for ours", other)
		}
	}
}

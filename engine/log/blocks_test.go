package log_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"kith/engine/log"
	"kith/proto"
)

// blockRecord is a record of a block file, as the server writes it.
func blockRecord(seq uint64, size int) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, uint32(size))
	binary.LittleEndian.PutUint64(b[4:], seq)
	for i := 22; i < size; i++ {
		b[i] = 'x'
	}
	return b
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func TestCheckBlock(t *testing.T) {
	good := join(blockRecord(5, 100), blockRecord(6, 40_000), blockRecord(7, 30))
	for name, x := range map[string]struct {
		b      []byte
		last   uint64
		newest bool
		want   string
		end    uint64
	}{
		"good":             {good, 4, false, "", 7},
		"first":            {good, 0, false, "", 7},
		"empty":            {nil, 4, false, "", 4},
		"erased":           {join(good, blockRecord(8|1<<63, 30)), 4, false, "", 8},
		"tombstone":        {join(good, blockRecord(1<<60|1<<62, 30)), 4, false, "", 7},
		"torn":             {good[:len(good)-3], 4, true, "", 6},
		"torn head":        {good[:len(good)-20], 4, true, "", 6},
		"torn inside":      {good[:len(good)-3], 4, false, "a record is cut off", 6},
		"head torn inside": {good[:len(good)-20], 4, false, "a record is cut off", 6},
		"zero tail":        {join(good, make([]byte, 9000)), 4, true, "", 7},
		"zero inside":      {join(good, make([]byte, 9000), good), 4, true, "a record of impossible length", 7},
		"jump":             {join(good, blockRecord(1<<40, 30)), 4, true, "a record of impossible sequence", 7},
		"first jumped":     {join(blockRecord(1<<40, 30), good), 0, true, "a record of impossible sequence", 1 << 40},
		"other block":      {good, 1 << 40, true, "a record of impossible sequence", 1 << 40},
	} {
		end, _, what, err := log.CheckBlock(x.b, x.last, x.newest)
		if what != x.want || end != x.end || err != nil {
			t.Errorf("%s: %q up to %d, %v; want %q, %d", name, what, end, err, x.want, x.end)
		}
	}
}

// What the server itself writes passes, purges and empty streams included.
func TestCheckBlockTakesRealFiles(t *testing.T) {
	c := config(t.TempDir())
	l := open(t, c)
	appendAll(t, l.Lane(1), 1, 40)
	if err := l.Lane(1).Purge(t.Context(), 17); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l.Lane(1), 41, 45)
	l.Close()
	b, err := os.ReadFile(filepath.Join(c.Dir, "jetstream", "$G", "streams", "KITH_L01", "msgs", "1.blk"))
	if err != nil {
		t.Fatal(err)
	}
	if end, _, what, err := log.CheckBlock(b, 0, false); end != 45 || what != "" || err != nil {
		t.Errorf("a real block: %q up to %d, %v", what, end, err)
	}
	l = open(t, c)
	defer l.Close()
	read(t, l.Lane(1), 18, 28)
}

func FuzzCheckBlock(f *testing.F) {
	f.Add(join(blockRecord(5, 100), blockRecord(6, 200), blockRecord(7, 30)), uint64(4), true)
	f.Add(make([]byte, 100), uint64(0), false)
	f.Fuzz(func(t *testing.T, b []byte, last uint64, newest bool) {
		_, at, what, err := log.CheckBlock(b, last, newest)
		if err != nil || at < 0 || at > int64(len(b)) || what == "" && !newest && at != int64(len(b)) {
			t.Fatalf("%q at %d of %d, %v", what, at, len(b), err)
		}
	})
}

// A damaged record of the newest block is told before the server cuts the block off at
// it; what a crash tore is not.
func TestDamagedEndIsTold(t *testing.T) {
	c := config(t.TempDir())
	l := open(t, c)
	appendAll(t, l.Lane(1), 1, 9)
	l.Close()
	msgs := filepath.Join(c.Dir, "jetstream", "$G", "streams", "KITH_L01", "msgs")
	name := filepath.Join(msgs, "1.blk")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var starts []int
	for at := 0; at < len(good); at += int(binary.LittleEndian.Uint32(good[at:]) &^ (1 << 31)) {
		starts = append(starts, at)
	}
	flipped := func(at int, bit byte) []byte {
		b := append([]byte(nil), good...)
		b[at] ^= bit
		return b
	}
	for what, x := range map[string]struct {
		b    []byte
		fail bool
	}{
		"whole":           {good, false},
		"content":         {flipped(starts[4]+40, 0x40), true},
		"length":          {flipped(starts[4]+1, 0x40), true}, // beyond the file's end, as if it was torn
		"last content":    {flipped(len(good)-20, 0x40), false},
		"cut off":         {good[:len(good)-5], false},
		"not yet arrived": {join(good, make([]byte, 5000)), false},
	} {
		if err := os.WriteFile(name, x.b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := log.CheckBlocks(c.Dir); (err != nil) != x.fail || x.fail && proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
}

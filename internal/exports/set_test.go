package exports_test

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/internal/exports"
	"kith/proto"
)

// renamed is a tar with one file under another name.
func renamed(t *testing.T, stream []byte, from, to string) []byte {
	t.Helper()
	var out bytes.Buffer
	r, w := tar.NewReader(bytes.NewReader(stream)), tar.NewWriter(&out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == from {
			h.Name = to
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestReadSetRefuses(t *testing.T) {
	sound, err := exports.AppendSet(nil, someSet(1, 70_000))
	if err != nil {
		t.Fatal(err)
	}
	full := roaring.New()
	full.AddRange(0, exports.SetMembersMax+1)
	large, err := exports.AppendSet(nil, full)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		b    []byte
		code proto.Code
	}{
		"nothing":         {nil, proto.CodeInvalid},
		"eight zeros":     {make([]byte, 8), proto.CodeInvalid},
		"half":            {sound[:len(sound)/2], proto.CodeInvalid},
		"more":            {append(bytes.Clone(sound), 0), proto.CodeInvalid},
		"many containers": {[]byte{0x3b, 0x30, 0xff, 0xff, 0, 0, 0, 0}, proto.CodeInvalid},
		"not ascending":   {[]byte{0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 16, 0, 0, 0, 5, 0, 3, 0}, proto.CodeInvalid},
		"too long":        {make([]byte, exports.SetBytesMax+1), proto.CodeTooLarge},
		"too many":        {large, proto.CodeTooLarge},
	} {
		if _, err := exports.ReadSet(tt.b); proto.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if set, err := exports.ReadSet(sound); err != nil || set.GetCardinality() != 70_000 {
		t.Errorf("a sound one: %v", err)
	}
}

// FuzzReadSet reads bytes as a set. What is taken can be compared with others,
// and is written as a set that is equal.
func FuzzReadSet(f *testing.F) {
	for _, set := range []*roaring.Bitmap{roaring.New(), roaring.BitmapOf(1, 2, 3, 1<<31), someSet(1, 10_000)} {
		b, err := exports.AppendSet(nil, set)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := exports.ReadSet(b)
		if err != nil {
			return
		}
		other := someSet(2, 100)
		if n := roaring.AndNot(set, other).GetCardinality() + set.AndCardinality(other); n != set.GetCardinality() {
			t.Fatalf("%d members, %d when taken apart", set.GetCardinality(), n)
		}
		again, err := exports.AppendSet(nil, set)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := exports.ReadSet(again); err != nil || !x.Equals(set) {
			t.Fatalf("what was taken reads again as another: %v", err)
		}
	})
}

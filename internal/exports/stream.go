package exports

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// stream writes one export.
type stream struct {
	ctx context.Context
	tar *tar.Writer
	a   *Audience
	m   *proto.ExportManifest

	sets    [][]byte // by lane, as they are written
	changes []change // by lane, of a delta
}

// Write streams a, as its manifest says, to w: a tar that begins with
// begin.json and ends with manifest.json. What have names is left out of the
// tables; since is nil unless a delta is wanted. The manifest's files are
// filled in.
func Write(ctx context.Context, w io.Writer, a *Audience, have []proto.ExportKept, since *proto.ExportSince) error {
	s := &stream{ctx: ctx, tar: tar.NewWriter(w), a: a, m: &a.Manifest}
	s.m.Version, s.m.Files, s.m.Complete = proto.ExportVersion, []proto.ExportFile{}, false
	if err := s.begin(have, since); err != nil {
		return err
	}
	if err := s.writeSets(); err != nil {
		return err
	}
	if f := s.m.TableFormat(); f != proto.FormatNone {
		if err := s.writeTables(f); err != nil {
			return err
		}
	}
	s.m.Complete = true
	if err := s.manifest(ManifestName); err != nil {
		return err
	}
	return s.broken(s.tar.Close())
}

func (s *stream) broken(err error) error {
	if err == nil {
		return nil
	}
	return proto.Errorf(proto.CodeUnavailable, "the export broke off: %w", err)
}

// begin says what comes.
func (s *stream) begin(have []proto.ExportKept, since *proto.ExportSince) error {
	for i := range s.a.Lanes {
		b, err := AppendSet(nil, s.a.Lanes[i].Set)
		if err != nil {
			return err
		}
		l := &s.m.Lanes[i]
		l.Set = sum(b)
		if !s.m.Members { // of whom the set of users says nothing
			l.Kept = kept(have, *l, s.m.PartsOf(l.Count))
		}
		s.sets = append(s.sets, b)
	}
	if since != nil {
		if err := s.compare(since); err != nil {
			return err
		}
	}
	return s.manifest(BeginName)
}

// compare finds what has changed.
func (s *stream) compare(since *proto.ExportSince) error {
	earlier, err := earlierOf(since)
	if err != nil {
		return err
	}
	s.m.Since = &proto.ExportChange{Time: since.Time, Position: since.Position().String()}
	for i := range s.a.Lanes {
		set := earlier[s.m.Lanes[i].Lane]
		if set == nil {
			set = roaring.New()
		}
		c := changeOf(s.a.Lanes[i], set)
		s.m.Since.Entered += c.entered.GetCardinality()
		s.m.Since.Left += c.left.GetCardinality()
		s.m.Since.Recalled += c.recall.GetCardinality()
		s.changes = append(s.changes, c)
	}
	return nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// manifest writes the manifest as it is; it lists itself nowhere.
func (s *stream) manifest(name string) error {
	b, err := s.m.Append(nil)
	if err != nil {
		return err
	}
	return s.put(name, b)
}

// put writes one file of the tar.
func (s *stream) put(name string, pieces ...[]byte) error {
	if err := s.ctx.Err(); err != nil {
		return s.broken(err)
	}
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(size), Mode: 0o600, ModTime: s.m.Time}
	if err := s.tar.WriteHeader(h); err != nil {
		return s.broken(err)
	}
	for _, p := range pieces {
		if _, err := s.tar.Write(p); err != nil {
			return s.broken(err)
		}
	}
	return nil
}

// file writes a file that the manifest lists.
func (s *stream) file(f proto.ExportFile, pieces ...[]byte) error {
	h := sha256.New()
	for _, p := range pieces {
		f.Bytes += int64(len(p))
		h.Write(p)
	}
	f.SHA256 = hex.EncodeToString(h.Sum(nil))
	return s.measured(f, pieces...)
}

// measured writes a file of which size and hash are known.
func (s *stream) measured(f proto.ExportFile, pieces ...[]byte) error {
	s.m.Files = append(s.m.Files, f)
	return s.put(f.Name, pieces...)
}

func (s *stream) writeSets() error {
	for i := range s.m.Lanes {
		l := &s.m.Lanes[i]
		if err := s.set(proto.ContentSet, l, l.Count, s.sets[i]); err != nil {
			return err
		}
	}
	all := proto.ExportFile{Name: proto.Sets64Name, Content: proto.ContentSets64, Format: "roaring64", Rows: s.m.Count}
	if err := s.file(all, sets64(s.m.Lanes, s.sets)...); err != nil {
		return err
	}
	for i := range s.m.Lanes {
		if err := s.writeMembers(i); err != nil {
			return err
		}
	}
	for i, c := range s.changes {
		for _, x := range c.parts() {
			b, err := AppendSet(nil, x.set)
			if err != nil {
				return err
			}
			if err := s.set(x.content, &s.m.Lanes[i], x.set.GetCardinality(), b); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeMembers writes who the users of a lane's identities are, if they are
// named.
func (s *stream) writeMembers(i int) error {
	if !s.m.Members {
		return nil
	}
	set := s.a.Lanes[i].Members
	b, err := AppendSet(nil, set)
	if err != nil {
		return err
	}
	return s.set(proto.ContentMembers, &s.m.Lanes[i], set.GetCardinality(), b)
}

func (s *stream) set(c proto.ExportContent, l *proto.ExportLane, members uint64, b []byte) error {
	return s.file(proto.ExportFile{Name: proto.SetName(c, l.Lane), Content: c, Format: "roaring32", Lane: &l.Lane, Rows: members}, b)
}

// changePart is one of a change's sets.
type changePart struct {
	content proto.ExportContent
	set     *roaring.Bitmap
}

func (c change) parts() []changePart {
	return []changePart{{proto.ContentEntered, c.entered}, {proto.ContentLeft, c.left}, {proto.ContentRecall, c.recall}}
}

package exports

import (
	"context"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/internal/cores"
	"kith/proto"
)

// This file makes tables' files ahead of the one that is being written, on half
// of the cores, and writes them in their order.

// partsAhead is how many parts are in memory: one that is written, and those
// that are made meanwhile.
func partsAhead() int { return 1 + min(max(1, cores.Count()/2), 3) }

// table is a set that is written as a table.
type table struct {
	content proto.ExportContent
	lane    *proto.ExportLane
	set     *roaring.Bitmap
	skip    int // parts that are not written
	named   bool
}

// tables are all that are to be written: who is in the audience or has entered
// by name, and who left it by number.
func (s *stream) tables() (list []table) {
	named := s.m.Table()
	for i := range s.m.Lanes {
		l := &s.m.Lanes[i]
		if s.changes == nil {
			list = append(list, table{named, l, s.a.Lanes[i].Set, l.Kept, true})
			continue
		}
		c := s.changes[i]
		list = append(list, table{named, l, c.entered, 0, true},
			table{proto.ContentLeft, l, c.left, 0, false}, table{proto.ContentRecall, l, c.recall, 0, false})
	}
	return list
}

// pending is a part that is made, or will be.
type pending struct {
	*part
	err chan error // buffered
}

// kitchen hands parts from who makes them to who writes them.
type kitchen struct {
	ctx   context.Context
	free  chan *part
	queue chan pending // in order
	busy  sync.WaitGroup
}

// writeTables writes the tables. When it returns, nothing goes on.
func (s *stream) writeTables(f proto.ExportFormat) error {
	ctx, cancel := context.WithCancel(s.ctx)
	k := &kitchen{ctx: ctx, free: make(chan *part, partsAhead()), queue: make(chan pending, partsAhead())}
	defer k.busy.Wait()
	defer cancel()
	for range cap(k.free) {
		p := &part{}
		if s.m.Members {
			p.members = &memberLists{}
		}
		k.free <- p
	}
	k.busy.Go(func() {
		defer close(k.queue)
		for _, t := range s.tables() {
			if !k.start(s, t, f) {
				return
			}
		}
	})
	for p := range k.queue {
		err := <-p.err
		if err == nil {
			err = s.measured(p.file, p.buf.Bytes())
		}
		if err != nil {
			return err
		}
		k.free <- p.part
	}
	return s.broken(s.ctx.Err())
}

// start has all parts of a table made; false if the stream ends.
func (k *kitchen) start(s *stream, t table, f proto.ExportFormat) bool {
	it := t.set.ManyIterator()
	for number := 0; ; number++ {
		var p *part
		select {
		case p = <-k.free:
		case <-k.ctx.Done():
			return false
		}
		n := it.NextMany(p.room[:s.m.PartRows()])
		if n == 0 || number < t.skip {
			k.free <- p
			if n == 0 {
				return true
			}
			continue
		}
		p.lane, p.ordinals, p.named = t.lane.Lane, p.room[:n], t.named
		p.file = proto.ExportFile{Name: proto.PartName(t.content, t.lane.Lane, number, f), Content: t.content, Format: string(f), Lane: &t.lane.Lane}
		made := pending{p, make(chan error, 1)}
		k.queue <- made // never full: it takes as many as there are
		k.busy.Go(func() { made.err <- p.make(s.a) })
	}
}

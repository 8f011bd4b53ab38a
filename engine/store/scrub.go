package store

import (
	"errors"

	"kith/proto"
)

// Scrub makes Badger forget what was deleted or replaced: its memory tables are
// written out, and all levels are merged into one, where no older version and
// no deletion is kept.
//
// Nothing but the dropping of a prefix makes Badger write its memory out and
// merge its newest level at once; so there is a key that is dropped. And it
// merges tables whose keys overlap only, so two keys beyond all others see to it
// that every table is read and written again.

var (
	scrubLow, scrubHigh = []byte{0, 0, 'z'}, []byte{0xff, 0xff, 'z'} // no other key lies beyond these
	scrubDropped        = []byte{0xff, 0xff, 0xff}                   // no other key begins so
)

// Scrub implements Store.
func (s *Badger) Scrub() error {
	for i := range 2 { // what the first round's own writes replaced goes with the second
		b := s.NewBatch()
		value := []byte{byte(i)}
		if err := errors.Join(b.Set(scrubLow, value), b.Set(scrubHigh, value), b.Set(scrubDropped, value)); err != nil {
			return err
		}
		if err := b.Commit(); err != nil {
			return err
		}
		if err := s.exclusively(func() error { return s.db.DropPrefix(scrubDropped) }); err != nil {
			return proto.Errorf(proto.CodeUnavailable, "write the store's memory out: %w", err)
		}
	}
	if err := s.db.Flatten(2); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "rewrite the store: %w", err)
	}
	return nil
}

// exclusively runs fn while no commit is under way.
func (s *Badger) exclusively(fn func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return fn()
}

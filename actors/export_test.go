package actors

import "github.com/asynkron/protoactor-go/actor"

// NewSlotMailbox is the mailbox of identity actors.
func NewSlotMailbox() actor.Mailbox { return newSlotMailbox() }

// Share is Helpers.share.
func (h *Helpers) Share(work int, list []int, do func(i int)) bool { return h.share(work, list, do) }

// ColdShared is from how many reads on two goroutines share them.
const ColdShared = coldShared

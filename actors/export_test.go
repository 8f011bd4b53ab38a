package actors

import "github.com/asynkron/protoactor-go/actor"

// NewSlotMailbox is the mailbox of identity actors.
func NewSlotMailbox() actor.Mailbox { return newSlotMailbox() }

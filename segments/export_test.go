package segments

// SetPredicateID forges the number of the rule's first condition, since nobody
// can wait for two texts whose 48-bit hashes collide.
func (r *Rule) SetPredicateID(id uint64) { r.preds[0].id = predID(id) }

// PredicateID is the number of the rule's first condition.
func (r *Rule) PredicateID() uint64 { return uint64(r.preds[0].id) }

package exports

// LayoutName is a seam for tests.
var LayoutName = layoutName

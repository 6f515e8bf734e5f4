"""FER-2013 and other labelled faces as arrays; FER+ votes; audit."""

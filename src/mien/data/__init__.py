"""FER-2013 from a zip, a folder or the CSV to arrays; FER+ votes; the audit."""

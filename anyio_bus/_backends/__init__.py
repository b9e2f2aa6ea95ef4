"""The places where a kernel can run, behind one contract."""

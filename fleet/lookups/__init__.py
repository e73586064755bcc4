"""What is looked up, one function a question: the API and the pages ask the same ones, of a session over one snapshot."""

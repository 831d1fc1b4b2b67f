"""One kernel on one problem: calls, their verdict, and the processes of their own in which dangerous ones are made."""
